//! Opening disks: images that cannot be used, locks, serial numbers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use vmm_sys_util::tempdir::TempDir;

use super::blk_rig::image;
use crate::virtio::{Blk, BlkAccess, BlkError};

#[test]
fn images_that_cannot_be_used_are_refused_with_one_line() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.as_path().join(name);
    fs::write(path("empty"), []).unwrap();
    fs::write(path("odd"), [0; 513]).unwrap();
    fs::write(path("good"), [0; 1024]).unwrap();
    fs::write(path("qcow2"), *b"QFI\xfb\0\0\0\x03").unwrap();
    let open = |name: &str| Blk::open(&path(name), BlkAccess::ReadWrite, 1).map(|_| ());
    let error = open("missing").unwrap_err();
    assert!(matches!(error, BlkError::Missing(_)), "{error}");
    assert!(!error.to_string().contains('\n'));
    let folder_error = Blk::open(folder.as_path(), BlkAccess::ReadOnly, 1)
        .map(|_| ())
        .unwrap_err();
    assert!(
        matches!(folder_error, BlkError::IsFolder(_)),
        "{folder_error}"
    );
    assert!(matches!(open("empty"), Err(BlkError::Empty(_))));
    assert!(matches!(
        open("odd"),
        Err(BlkError::PartialSector { len_bytes: 513, .. })
    ));
    let qcow2 = open("qcow2").unwrap_err().to_string();
    assert!(qcow2.contains("--vhost-user-blk"), "{qcow2}");
    let device = Blk::open("/dev/null".as_ref(), BlkAccess::ReadOnly, 1).map(|_| ());
    assert!(matches!(device, Err(BlkError::NotStorage(_))));
    open("good").unwrap();
    // Root may do everything, so only other users see the two refusals.
    for (mode, is_expected) in [
        (
            0o400,
            (|error| matches!(error, BlkError::NotWritable(_))) as fn(&BlkError) -> bool,
        ),
        (0o000, |error| matches!(error, BlkError::NotReadable(_))),
    ] {
        fs::set_permissions(path("good"), fs::Permissions::from_mode(mode)).unwrap();
        if let Err(error) = open("good") {
            assert!(is_expected(&error), "{error}");
        }
    }
}

fn refusal(path: &Path, access: BlkAccess) -> BlkError {
    match Blk::open(path, access, 1) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[test]
fn image_in_use_is_refused_unless_all_only_read() {
    let file = image(16);
    let path = file.as_path();
    let writer = Blk::open(path, BlkAccess::ReadWrite, 1).unwrap();
    for access in [BlkAccess::ReadWrite, BlkAccess::ReadOnly] {
        let error = refusal(path, access);
        assert!(matches!(error, BlkError::InUse(_)), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
    drop(writer);
    let reader = Blk::open(path, BlkAccess::ReadOnly, 1).unwrap();
    let another = Blk::open(path, BlkAccess::ReadOnly, 1).unwrap();
    let error = refusal(path, BlkAccess::ReadWrite);
    assert!(matches!(error, BlkError::InUse(_)), "{error}");
    drop((reader, another));
    Blk::open(path, BlkAccess::ReadWrite, 1).unwrap();
}

#[test]
fn serial_numbers_are_short_and_printable() {
    let file = image(16);
    let mut blk = Blk::open(file.as_path(), BlkAccess::ReadWrite, 1).unwrap();
    blk.set_serial("12345678901234567890").unwrap();
    for bad in ["", "123456789012345678901", "a b", "ä", "a\n"] {
        let error = blk.set_serial(bad).unwrap_err();
        assert!(matches!(error, BlkError::Serial(_)), "{error}");
    }
}
