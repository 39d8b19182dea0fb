//! A file says what the options say, and what it cannot say it refuses by line.

use clap::{CommandFactory, FromArgMatches};

use super::super::{Cli, Command as CliCommand};
use super::*;

/// A value for each option of `run` that is not its default. An option that is missing here fails
/// `every_option_has_a_key_that_says_the_same`.
const SAMPLES: &[(&str, &[&str])] = &[
    ("kernel", &["/boot/vmlinuz"]),
    ("initrd", &["/boot/initrd.img"]),
    ("cmdline", &["console=hvc0 a=\"b c\" -- \\x"]),
    ("cpus", &["3"]),
    ("memory", &["1G"]),
    ("disk", &["/a.img", "/b, c.img,ro"]),
    (
        "vhost-user-blk",
        &["/a.sock,queues=2,reconnect=5", "/b.sock"],
    ),
    ("fs", &["/c.sock,tag=home"]),
    (
        "net",
        &[
            "tap=tap0,mac=52:54:00:12:34:56,vhost=off",
            "tap=tap1,busy-poll=50",
        ],
    ),
    ("vsock", &["cid=42,socket=/run/vm.vsock"]),
    ("mode", &["coop"]),
    ("x2apic", &[]),
    ("kvm-features", &["all,-pv-eoi"]),
    ("coop", &["all,-timer"]),
    ("sidecore", &["always,cpu=3"]),
    ("halt-poll", &["200000"]),
    ("disable-exits", &["hlt"]),
    ("console", &["virtio"]),
    ("exits", &["/tmp/exits.json"]),
    ("accounting", &["stats"]),
    ("pin", &["1,2-3"]),
    ("no-huge-pages", &[]),
    ("prefault", &[]),
    ("overcommit", &[]),
    ("balloon", &[]),
    ("pci-config-ports", &[]),
    ("debug-exit", &[]),
    ("control", &["/run/vm.sock"]),
];

struct File(vmm_sys_util::tempfile::TempFile);

impl File {
    fn new(text: &str) -> Self {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap();
        std::fs::write(file.as_path(), text).unwrap();
        Self(file)
    }

    fn path(&self) -> &str {
        self.0.as_path().to_str().unwrap()
    }
}

/// What `main` makes of these words: the matches of `run` and its arguments as text.
fn parsed(words: &[String]) -> Result<(ArgMatches, String), String> {
    let command = Cli::command();
    let argv = ["coopvirt", "run"].into_iter().map(OsString::from);
    let argv = argv.chain(words.iter().map(OsString::from)).collect();
    let argv = expand(&command, argv).map_err(|error| error.to_string())?;
    let matches = command
        .try_get_matches_from(argv)
        .map_err(|error| error.to_string())?;
    let CliCommand::Run(args) = Cli::from_arg_matches(&matches).unwrap().command else {
        panic!("run was given");
    };
    let run = matches.subcommand_matches("run").unwrap().clone();
    Ok((run, args.without_file()))
}

fn with_file(text: &str, words: &[&str]) -> Result<String, String> {
    let file = File::new(text);
    let config = ["--config", file.path()];
    let words: Vec<String> = config.iter().chain(words).map(|w| (*w).into()).collect();
    parsed(&words).map(|(_, args)| args)
}

fn from_words(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| (*word).into()).collect();
    parsed(&words).unwrap().1
}

fn words_of((key, values): &(&str, &[&str])) -> Vec<String> {
    if values.is_empty() {
        return vec![format!("--{key}")];
    }
    values.iter().map(|v| format!("--{key}={v}")).collect()
}

#[test]
fn every_option_has_a_key_that_says_the_same() {
    let command = Cli::command();
    let run = command.find_subcommand("run").unwrap();
    for arg in run.get_arguments() {
        let key = arg.get_long().expect("options of run have long names");
        if RUN.not_in_file.contains(&key) {
            continue;
        }
        let sample = SAMPLES.iter().find(|(sample, _)| *sample == key);
        let sample = sample.unwrap_or_else(|| panic!("no sample of --{key}; add one"));
        let kernel = ("kernel", &["/k"] as &[&str]);
        let mut words = words_of(sample);
        if key != "kernel" {
            words.extend(words_of(&kernel));
        }
        let (matches, wanted) = parsed(&words).unwrap();
        let text = print(&command, &matches).unwrap();
        assert!(text.contains(&format!("{key} = ")), "no {key} in:\n{text}");
        assert_eq!(with_file(&text, &[]).unwrap(), wanted, "by:\n{text}");
        assert_ne!(wanted, from_words(&["--kernel=/k"]), "the default of {key}");
    }
}

#[test]
fn all_options_at_once_say_the_same() {
    let words: Vec<String> = SAMPLES.iter().flat_map(words_of).collect();
    let (matches, wanted) = parsed(&words).unwrap();
    let text = print(&Cli::command(), &matches).unwrap();
    assert_eq!(with_file(&text, &[]).unwrap(), wanted, "by:\n{text}");
}

#[test]
fn every_option_that_takes_a_path_is_known_as_such() {
    let command = Cli::command();
    for (key, arg) in keys(&options(&command, &RUN), &RUN) {
        let names = arg.get_value_names().unwrap_or_default();
        let takes_path = names
            .iter()
            .any(|name| name.starts_with("PATH") || name.starts_with("FILE"));
        assert_eq!(takes_path, RUN.paths.contains(&key.as_str()), "--{key}");
    }
}

#[test]
fn the_command_line_wins_and_its_disks_replace_the_files() {
    let text = "kernel = \"/k\"\ncpus = 4\ndisk = [\"/a\", \"/b,ro\"]\nballoon = true\n";
    let args = with_file(text, &["--cpus", "2", "--disk", "/c"]).unwrap();
    let words = ["--kernel=/k", "--cpus=2", "--disk=/c", "--balloon"];
    assert_eq!(args, from_words(&words));
}

#[test]
fn numbers_lists_and_switches_have_their_toml_forms() {
    let text =
        "kernel = '/k'\nmemory = 0x100\npin = [1, '2-3']\nkvm-features = ['all', '-pv-eoi']\n\
                disable-exits = 'hlt'\nprefault = false\ndisk = []\n";
    let words = [
        "--kernel=/k",
        "--memory=256",
        "--pin=1,2-3",
        "--kvm-features=all,-pv-eoi",
        "--disable-exits=hlt",
    ];
    assert_eq!(with_file(text, &[]).unwrap(), from_words(&words));
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let file = File::new("kernel = 'k'\ndisk = 'sub/d.img,ro'\nvsock = 'cid=3,socket=s.sock'\n");
    let folder = Path::new(file.path()).parent().unwrap().display();
    let (_, args) = parsed(&["--config".into(), file.path().into()]).unwrap();
    let (kernel, disk) = (
        format!("--kernel={folder}/k"),
        format!("--disk={folder}/sub/d.img,ro"),
    );
    let vsock = format!("--vsock=cid=3,socket={folder}/s.sock");
    assert_eq!(args, from_words(&[&kernel, &disk, &vsock]));
}

#[test]
fn mistakes_are_told_by_line() {
    for (text, line, says) in [
        (
            "kernel = '/k'\n\nmemroy = '1G'\n",
            3,
            "nearest known one is \"memory\"",
        ),
        ("config = 'x'\n", 1, "unknown key \"config\""),
        ("# a\ncpus = 300\n", 2, "give --cpus 1 to 64"),
        ("cpus = 'two'\n", 1, "is not a number of vCPUs"),
        ("memory = '12Q'\n", 1, "memory size \"12Q\""),
        ("memory = true\n", 1, "memory: expected text or a number"),
        ("kernel = ['a', 'b']\n", 1, "takes one value"),
        ("mode = 'cop'\n", 1, "coop"),
        ("pin = '1-x'\n", 1, "CPU list"),
        ("balloon = 1\n", 1, "balloon: expected true or false"),
        ("[disk]\npath = 'x'\n", 1, "disk: "),
        ("cpus = 1\ncpus = 2\n", 2, "duplicate"),
        ("cpus = 1\nmemory 1\n", 2, ""),
        ("kernel = 'unended\n", 1, ""),
        (
            "cpus = 99999999999999999999999999999999999999999\n",
            1,
            "too large",
        ),
        ("cpus = 1.5\n", 1, "is not a number of vCPUs"),
    ] {
        let error = with_file(text, &["--kernel=/k"]).unwrap_err();
        assert!(error.contains(&format!(":{line}: ")), "{text:?}: {error}");
        assert!(error.contains(says), "{text:?}: {error}");
        assert!(!error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn a_file_that_is_missing_or_none_at_all_is_named() {
    let error = parsed(&["--config".into(), "/nowhere/vm.toml".into()]).unwrap_err();
    assert!(error.contains("\"/nowhere/vm.toml\"") && error.contains("--config"));
    let error = parsed(&["--config".into(), "/dev/zero".into()]).unwrap_err();
    assert!(error.contains("/dev/zero"), "{error}");
}
