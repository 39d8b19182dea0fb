//! What `coopvirt` says of wrong files and arguments: one line that names the thing and a
//! remedy, status 1 (2 for wrong arguments), nothing on standard output.
//!
//! None of these runs comes as far as KVM, so they need no virtualization.

mod support;

use support::kernels;
use support::{assert_names, refused, refused_as_wrong, refused_without_privilege, Folder};

const REMEDY_IMAGE: &str = "give a vmlinux or bzImage";

fn refused_kernel(path: &str) -> String {
    let line = refused(&["run", "--kernel", path]);
    assert_names(&line, &[path]);
    line
}

/// A kernel that is good enough for everything that is checked before KVM.
fn good_kernel(folder: &Folder) -> String {
    folder.file("kernel", &kernels::bzimage(64 << 10))
}

fn refused_with(folder: &Folder, arguments: &[&str]) -> String {
    let kernel = good_kernel(folder);
    refused(&[&["run", "--kernel", &kernel], arguments].concat())
}

// --- kernels ---

#[test]
fn a_kernel_that_is_missing() {
    let folder = Folder::new("kernel-missing");
    let line = refused_kernel(&folder.missing("vmlinuz"));
    assert_names(&line, &["does not exist", "check the path", "--kernel"]);
}

#[test]
fn a_kernel_that_is_a_folder() {
    let folder = Folder::new("kernel-folder");
    let line = refused_kernel(&folder.path());
    assert_names(&line, &["is a folder", "name the vmlinux"]);
}

#[test]
fn a_kernel_that_is_empty() {
    let folder = Folder::new("kernel-empty");
    let line = refused_kernel(&folder.file("kernel", b""));
    assert_names(&line, &["is empty", REMEDY_IMAGE]);
}

#[test]
fn a_kernel_that_is_random_text() {
    let folder = Folder::new("kernel-text");
    let text = "It was a dark and stormy night. ".repeat(1000);
    for content in [text.as_bytes(), b"#", &[0; 8192], &[0xff; 8192]] {
        let line = refused_kernel(&folder.file("kernel", content));
        assert_names(&line, &["neither an ELF vmlinux nor a bzImage", "give one"]);
    }
}

#[test]
fn a_kernel_that_may_not_be_read() {
    let folder = Folder::new("kernel-secret");
    let kernel = good_kernel(&folder);
    set_mode(&kernel, 0);
    let line = refused_without_privilege(&["run", "--kernel", &kernel]);
    assert_names(&line, &[&kernel, "check its permissions"]);
}

#[test]
fn an_elf_kernel_cut_off_anywhere() {
    let folder = Folder::new("kernel-cut-elf");
    let whole = kernels::elf(&[0x90; 4096], true);
    let cuts = [
        5,
        kernels::ELF_HEADER_BYTES - 1,
        kernels::ELF_HEADER_BYTES,
        kernels::ELF_HEADER_BYTES + 60,
        kernels::PROGRAM_HEADERS_END,
        kernels::CODE_AT,
        whole.len() - 1,
    ];
    for cut in cuts {
        let line = refused_kernel(&folder.file("kernel", &whole[..cut]));
        assert!(
            line.contains("get it again") || line.contains("give a whole vmlinux"),
            "cut after {cut} bytes: {line}"
        );
    }
}

#[test]
fn an_elf_kernel_whose_headers_point_anywhere() {
    let folder = Folder::new("kernel-wild-elf");
    let segment = kernels::ELF_HEADER_BYTES;
    let note_entry = kernels::PROGRAM_HEADERS_END + 16;
    let lies = [
        ("program headers", 32, u64::MAX),
        ("program headers", 32, 0xffff_f000),
        ("program headers", 32, 0),
        ("file offset", segment + 8, u64::MAX),
        ("file offset", segment + 8, 0xffff_f000),
        ("address", segment + 24, u64::MAX),
        ("address", segment + 24, 0xffff_f000),
        ("size in the file", segment + 32, u64::MAX),
        ("size in the file", segment + 32, 1 << 62),
        ("size in memory", segment + 40, u64::MAX),
        ("size in memory", segment + 40, 1 << 62),
        ("PVH entry", note_entry, 0),
        ("PVH entry", note_entry, 0xffff_f000),
    ];
    for (what, at, value) in lies {
        let mut file = kernels::elf(&[0x90; 4096], true);
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let line = refused_kernel(&folder.file("kernel", &file));
        let has_remedy = ["give", "get it again"]
            .iter()
            .any(|word| line.contains(word));
        assert!(has_remedy, "{what} {value:#x}: {line}");
    }
}

#[test]
fn an_elf_kernel_of_another_machine() {
    let folder = Folder::new("kernel-machine");
    for (class, machine, name) in [(2, 183, "64-bit ARM"), (1, 40, "32-bit ARM")] {
        let file = kernels::elf_of_machine(class, machine);
        let line = refused_kernel(&folder.file("kernel", &file));
        assert_names(&line, &[name, "this VMM runs x86-64 kernels"]);
    }
}

#[test]
fn an_elf_kernel_without_a_pvh_note() {
    let folder = Folder::new("kernel-no-pvh");
    let file = kernels::elf(&[0x90; 4096], false);
    let line = refused_kernel(&folder.file("kernel", &file));
    assert_names(
        &line,
        &["without a PVH entry note", "CONFIG_PVH", "bzImage"],
    );
}

#[test]
fn a_bzimage_whose_header_lies() {
    let folder = Folder::new("kernel-lying-bzimage");
    let lies: [(usize, &[u8]); 5] = [
        (0x1f1, &[0xff]),
        (0x1f4, &[0xff; 4]),
        (0x1f4, &[0; 4]),
        (0x206, &[0, 2]),
        (0x236, &[0]),
    ];
    for (at, bytes) in lies {
        let mut file = kernels::bzimage(4096);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let line = refused_kernel(&folder.file("kernel", &file));
        assert_names(&line, &["damaged bzImage", "get it again"]);
    }
}

#[test]
fn a_bzimage_that_wants_to_be_anywhere() {
    let folder = Folder::new("kernel-wild-bzimage");
    // code32_start, pref_address, init_size.
    let lies: [(usize, &[u8]); 4] = [
        (0x214, &[0, 0, 0, 0]),
        (0x214, &[0, 0xf0, 0xff, 0xff]),
        (0x258, &[0xff; 8]),
        (0x260, &[0xff; 4]),
    ];
    for (at, bytes) in lies {
        let mut file = kernels::bzimage(4096);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        let line = refused_kernel(&folder.file("kernel", &file));
        assert_names(&line, &["give", "--memory"]);
    }
}

#[test]
fn a_bzimage_cut_off_anywhere() {
    let folder = Folder::new("kernel-cut-bzimage");
    let whole = kernels::bzimage(64 << 10);
    for cut in [
        0x206,
        0x230,
        0x250,
        1024,
        1040,
        whole.len() / 2,
        whole.len() - 16,
    ] {
        let line = refused_kernel(&folder.file("kernel", &whole[..cut]));
        assert_names(&line, &["damaged bzImage", "get it again"]);
    }
}

#[test]
fn a_kernel_of_five_gib() {
    let folder = Folder::new("kernel-large");
    let line = refused_kernel(&folder.sparse("kernel", 5 << 30));
    assert_names(&line, &["5120 MiB", REMEDY_IMAGE]);
}

#[test]
fn a_kernel_too_large_for_the_guest() {
    let folder = Folder::new("kernel-room");
    let kernel = folder.file("kernel", &kernels::bzimage(16 << 20));
    let line = refused(&["run", "--kernel", &kernel, "--memory", "8M"]);
    assert_names(&line, &[&kernel, "8 MiB", "--memory"]);
}

// --- initial RAM file systems ---

#[test]
fn an_initrd_that_is_missing() {
    let folder = Folder::new("initrd-missing");
    let initrd = folder.missing("initrd");
    let line = refused_with(&folder, &["--initrd", &initrd]);
    assert_names(
        &line,
        &[&initrd, "check the path", "--initrd", "No such file"],
    );
}

#[test]
fn an_initrd_that_is_a_folder_or_empty() {
    let folder = Folder::new("initrd-nothing");
    for initrd in [folder.path(), folder.file("initrd", b"")] {
        let line = refused_with(&folder, &["--initrd", &initrd]);
        assert_names(&line, &[&initrd, "give a cpio archive"]);
    }
}

#[test]
fn an_initrd_that_does_not_fit() {
    let folder = Folder::new("initrd-room");
    for bytes in [64 << 20, 65 << 20, 5 << 30, 1 << 40] {
        let initrd = folder.sparse("initrd", bytes);
        let line = refused_with(&folder, &["--initrd", &initrd, "--memory", "64M"]);
        assert_names(&line, &[&initrd, "does not fit", "64 MiB", "--memory"]);
    }
}

// --- memory and vCPUs ---

#[test]
fn memory_that_nobody_can_mean() {
    for size in ["0", "0G", "1M", "1024K", "1048576"] {
        let line = refused_as_wrong(&["run", "--kernel", "k", "--memory", size]);
        assert_names(&line, &["guest memory", "too small", "at least 4 MiB"]);
    }
    for size in ["67108865", "65537K"] {
        let line = refused_as_wrong(&["run", "--kernel", "k", "--memory", size]);
        assert_names(&line, &["not a multiple of 4096", "give"]);
    }
}

#[test]
fn memory_that_is_no_size() {
    for size in ["", "M", "12Q", "1.5G", "18446744073709551615G", "many"] {
        let line = refused(&["run", "--kernel", "k", "--memory", size]);
        assert_names(&line, &["--memory", "K, M or G"]);
    }
}

#[test]
fn memory_that_the_host_does_not_have() {
    let folder = Folder::new("memory-large");
    for size in ["1024T", "100000G"] {
        let line = refused_with(&folder, &["--memory", size]);
        assert_names(
            &line,
            &["more than this host's RAM and swap", "--overcommit"],
        );
    }
}

#[test]
fn memory_that_no_address_space_has() {
    let folder = Folder::new("memory-absurd");
    for size in ["1000000T", "16777215T"] {
        let line = refused_with(&folder, &["--memory", size, "--overcommit"]);
        assert_names(&line, &["guest memory", "ask for less"]);
    }
}

#[test]
fn too_few_and_too_many_vcpus() {
    let folder = Folder::new("vcpus");
    for (count, name) in [("0", "0 vCPUs"), ("65", "65 vCPUs"), ("300", "300 vCPUs")] {
        let line = refused_with(&folder, &["--cpus", count]);
        assert_names(&line, &[name, "give --cpus 1 to 64"]);
    }
}

// --- networks ---

#[test]
fn a_tap_that_is_missing_or_none() {
    let folder = Folder::new("net-tap");
    let line = refused_with(&folder, &["--net", "tap=coopvirt-none"]);
    assert_names(
        &line,
        &["no network interface coopvirt-none", "scripts/tap"],
    );
    let line = refused_with(&folder, &["--net", "tap=lo"]);
    assert_names(&line, &["lo is no tap", "scripts/tap"]);
}

#[test]
fn a_cid_that_no_guest_can_have() {
    for cid in ["0", "1", "2", "4294967295", "4294967296", "-3", "three", ""] {
        let line = refused(&["run", "--kernel", "k", &format!("--vsock={cid}")]);
        assert_names(&line, &["--vsock", "3 to 4294967294", "reserved"]);
    }
}

#[test]
fn a_socket_for_sockets_that_cannot_be_made() {
    let folder = Folder::new("vsock-sockets");
    let wrong = |path: &str, parts: &[&str]| {
        let option = format!("cid=3,socket={path}");
        let line = refused_with(&folder, &["--vsock", &option]);
        assert_names(&line, parts);
        assert_names(&line, &["--vsock socket="]);
    };
    let file = folder.file("taken", b"x");
    wrong(&file, &["taken", "is no socket"]);
    wrong(
        "/nowhere/at/all.sock",
        &["/nowhere/at/all.sock", "check the path"],
    );
    wrong(&"x".repeat(97), &["too long", "96 bytes"]);
    let line = refused(&["run", "--kernel", "k", "--vsock", "socket=a"]);
    assert_names(&line, &["cid=N is missing"]);
}

// --- disks ---

#[test]
fn a_disk_that_is_missing() {
    let folder = Folder::new("disk-missing");
    let disk = folder.missing("disk");
    let line = refused_with(&folder, &["--disk", &disk]);
    assert_names(&line, &[&disk, "does not exist", "--disk"]);
}

#[test]
fn a_disk_that_is_no_file() {
    let folder = Folder::new("disk-folder");
    let line = refused_with(&folder, &["--disk", &folder.path()]);
    assert_names(&line, &[&folder.path(), "is a folder", "name"]);
    let line = refused_with(&folder, &["--disk", "/dev/null"]);
    assert_names(
        &line,
        &["/dev/null", "neither a file nor a block device", "give"],
    );
}

#[test]
fn a_disk_of_a_wrong_size() {
    let folder = Folder::new("disk-size");
    for bytes in [1, 511, 513, (1 << 20) + 4] {
        let disk = folder.sparse("disk", bytes);
        let line = refused_with(&folder, &["--disk", &disk]);
        let size = format!("{bytes} bytes");
        assert_names(&line, &[&disk, &size, "not a multiple of 512", "truncate"]);
    }
    let disk = folder.file("disk", b"");
    let line = refused_with(&folder, &["--disk", &disk]);
    assert_names(&line, &[&disk, "is empty", "truncate"]);
}

#[test]
fn a_disk_that_is_in_use() {
    let folder = Folder::new("disk-in-use");
    let disk = folder.sparse("disk", 1 << 20);
    let line = refused_with(&folder, &["--disk", &disk, "--disk", &disk]);
    assert_names(&line, &[&disk, "in use", "\",ro\""]);
}

#[test]
fn a_disk_with_a_serial_number_that_does_not_fit() {
    let folder = Folder::new("disk-serial");
    let disk = folder.sparse("disk", 1 << 20);
    let serial = format!("{disk},serial=123456789012345678901");
    let line = refused_with(&folder, &["--disk", &serial]);
    assert_names(&line, &["123456789012345678901", "1 to 20 printable"]);
}

#[test]
fn a_disk_that_is_read_only_on_the_host() {
    let folder = Folder::new("disk-read-only");
    let (kernel, disk) = (good_kernel(&folder), folder.sparse("disk", 1 << 20));
    set_mode(&disk, 0o444);
    let line = refused_without_privilege(&["run", "--kernel", &kernel, "--disk", &disk]);
    assert_names(&line, &[&disk, "not writable", "\",ro\""]);
    set_mode(&disk, 0);
    let line = refused_without_privilege(&["run", "--kernel", &kernel, "--disk", &disk]);
    assert_names(&line, &[&disk, "not readable", "permissions"]);
}

// --- other arguments ---

#[test]
fn a_report_that_cannot_be_written() {
    let folder = Folder::new("exits-folder");
    let report = folder.missing("no/such/folder/report.json");
    let line = refused_with(&folder, &["--exits", &report]);
    assert_names(&line, &[&report, "No such file", "--exits"]);
}

#[test]
fn a_kvm_feature_that_is_unknown() {
    for list in ["warp", "all,-warp", "clock,warp"] {
        let line = refused(&["run", "--kernel", "k", "--kvm-features", list]);
        assert_names(
            &line,
            &["--kvm-features", "\"warp\"", "known: all, none", "pv-eoi"],
        );
    }
}

#[test]
fn a_cpu_list_that_is_none() {
    let run = ["run", "--kernel", "k"];
    for list in ["x", "1-", "3-1", "0,,1", "99999"] {
        for command in [&run[..], &["validate"], &["doors"]] {
            let line = refused_as_wrong(&[command, &["--pin", list]].concat());
            assert_names(&line, &[list, "expected numbers and ranges"]);
        }
    }
    let line = refused_as_wrong(&[&run[..], &["--pin", "0", "--cpus", "2"]].concat());
    assert_names(&line, &["--pin names 1 CPUs", "2 vCPUs need 2"]);
}

#[test]
fn a_host_cpu_that_is_not_there() {
    let folder = Folder::new("host-cpu");
    let report = folder.file("report.json", b"of an earlier run");
    let run = ["run", "--kernel", "k", "--exits", &report];
    let wrong = |command: &[&str], options: [&str; 2]| {
        let line = refused_as_wrong(&[command, &options].concat());
        assert_names(
            &line,
            &[options[0], "host CPU 1023 is not usable", "usable: "],
        );
    };
    wrong(&run, ["--pin", "1023"]);
    wrong(&run, ["--pin", "0,1023"]);
    wrong(&run, ["--sidecore", "always,cpu=1023"]);
    wrong(&["validate"], ["--pin", "1023"]);
    wrong(&["doors"], ["--pin", "1023"]);
    assert_eq!(std::fs::read(&report).unwrap(), b"of an earlier run");
    let new = folder.missing("new.json");
    refused(&["run", "--kernel", "k", "--exits", &new]);
    assert!(!std::fs::exists(&new).unwrap());
}

#[test]
fn a_report_of_nothing() {
    let options = ["--exits", "report.json", "--accounting", "off"];
    let line = refused_as_wrong(&[&["run", "--kernel", "k"], &options[..]].concat());
    assert_names(&line, &["--exits", "--accounting off", "leave one out"]);
}

#[test]
fn a_command_line_that_no_kernel_takes() {
    let folder = Folder::new("cmdline");
    let long = "x".repeat(2048);
    let line = refused_with(&folder, &["--cmdline", &long]);
    assert_names(
        &line,
        &["2048 bytes is too long", "keeps 1000", "--cmdline"],
    );
    let kernel = folder.file("vmlinux", &kernels::elf(&[0x90; 4096], true));
    let line = refused(&["run", "--kernel", &kernel, "--cmdline", &long]);
    assert_names(
        &line,
        &["2048 bytes is too long", "keeps 2047", "--cmdline"],
    );
}

#[test]
fn arguments_that_cannot_be_read() {
    assert_names(&refused(&["run"]), &["--kernel", "--help"]);
    assert_names(
        &refused(&["run", "--kernel", "k", "--cpus", "two"]),
        &["'two'", "--cpus"],
    );
    assert_names(
        &refused(&["run", "--kernel", "k", "--kernal", "x"]),
        &["'--kernal'", "--help"],
    );
    assert_names(
        &refused(&["run", "--kernel", "k", "--mode", "warp"]),
        &["'warp'", "hvm, kvm"],
    );
    assert_names(&refused(&["fly"]), &["'fly'", "--help"]);
    assert_names(&refused(&["validate", "-n", "0"]), &["'0'", "--count"]);
}

fn set_mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("the file is this test's own");
}

#[test]
fn a_file_of_options_with_a_mistake() {
    let folder = Folder::new("config");
    let file = folder.file("vm.toml", b"kernel = \"vmlinuz\"\n\ncpu = 2\n");
    let line = refused(&["run", "--config", &file]);
    assert_names(&line, &["vm.toml:3", "\"cpu\"", "\"cpus\""]);
    let file = folder.file("vm.toml", b"# no kernel\nmemory = '12Q'\n");
    let line = refused(&["run", "--config", &file]);
    assert_names(&line, &["vm.toml:2", "\"12Q\""]);
    let line = refused(&["run", "--config", &folder.missing("no.toml")]);
    assert_names(&line, &["no.toml", "--config", "No such file"]);
    // The kernel's path is relative to the file.
    let file = folder.file("vm.toml", b"kernel = 'vmlinuz'\n");
    let line = refused(&["run", "--config", &file]);
    assert_names(&line, &[&folder.missing("vmlinuz"), "does not exist"]);
}

// --- control socket ---

#[test]
fn a_control_socket_that_cannot_be_made() {
    let folder = Folder::new("control");
    let file = folder.file("notes.txt", b"mine");
    let line = refused_with(&folder, &["--control", &file]);
    assert_names(&line, &[&file, "is no socket", "--control"]);
    let line = refused_with(&folder, &["--control", &format!("{file}/vm.sock")]);
    assert_names(&line, &["notes.txt/vm.sock", "check the path", "--control"]);
    let long = folder.missing(&"x".repeat(200));
    let line = refused_with(&folder, &["--control", &long]);
    assert_names(&line, &[&long, "--control"]);
}

#[test]
fn a_machine_that_is_not_there_to_be_asked() {
    let folder = Folder::new("ctl");
    let missing = folder.missing("vm.sock");
    let line = refused(&["ctl", &missing, "state"]);
    assert_names(&line, &[&missing, "running machine"]);
    let file = folder.file("notes.txt", b"mine");
    let line = refused(&["ctl", &file, "pause"]);
    assert_names(&line, &[&file, "running machine"]);
    assert_names(&refused(&["ctl", &missing, "fly"]), &["'fly'", "--help"]);
}

#[test]
fn a_machine_that_is_not_there_to_be_watched() {
    let folder = Folder::new("top");
    let missing = folder.missing("vm.sock");
    for how in ["--once", "--csv", "--prometheus"] {
        let line = refused(&["top", &missing, how]);
        assert_names(&line, &[&missing, "running machine"]);
    }
    let line = refused(&["top", "--csv", "--prometheus"]);
    assert_names(&line, &["--csv", "--prometheus", "--help"]);
    for every in ["0", "-1", "NaN", "1e9", "soon"] {
        let every = format!("--every={every}");
        let line = refused(&["top", &every]);
        assert_names(&line, &["--every", "0.1 to 3600"]);
    }
}

#[test]
fn a_size_of_a_balloon_that_nobody_can_mean() {
    for size in ["1023K", "much", "1.5G", ""] {
        let line = refused(&["ctl", "vm.sock", "balloon", size]);
        assert_names(&line, &["SIZE", "--help"]);
    }
}

// --- results of comparisons ---

#[test]
fn a_file_of_another_version_is_refused_by_its_version() {
    let folder = Folder::new("report-version");
    let path = folder.file("old.json", b"{\"format\": 1, \"later\": [1, 2]}");
    let line = refused(&["report", &path]);
    assert_names(&line, &[&path, "format 1", "this program reads 2"]);
    let line = refused(&["report", &path, &path]);
    assert_names(&line, &["format 1"]);
}

#[test]
fn a_file_that_is_no_comparison_or_missing() {
    let folder = Folder::new("report-other");
    let path = folder.file("other.json", b"{\"format\": 2}");
    assert_names(&refused(&["report", &path]), &[&path, "is no comparison"]);
    let path = folder.file("empty.json", b"");
    assert_names(&refused(&["report", &path]), &[&path, "is no comparison"]);
    let path = folder.missing("none.json");
    assert_names(&refused(&["report", &path]), &[&path, "cannot read"]);
}

#[test]
fn options_that_do_not_fit() {
    let line = refused(&["report"]);
    assert_names(&line, &["FILE"]);
    let line = refused(&["report", "a", "b", "c"]);
    assert_names(&line, &["c"]);
    let line = refused(&["report", "--schema", "a"]);
    assert_names(&line, &["--schema"]);
}
