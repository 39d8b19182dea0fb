//! Tells kernel images apart before anything is loaded, so that a wrong file gets a clear answer.
//!
//! Sources: ELF-64 object file format; Linux `Documentation/arch/x86/boot.rst` (setup header).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Largest kernel image accepted: no kernel is near it, and a sparse file of any size is not read.
const MAX_IMAGE_BYTES: u64 = 1 << 30;
const ELF_MAGIC: &[u8] = b"\x7fELF";
const ELF_CLASS_64: u8 = 2;
const ELF_LITTLE_ENDIAN: u8 = 1;
const ELF_MACHINE_X86_64: u16 = 62;
const SETUP_MAGIC: &[u8] = b"HdrS";
const SETUP_MAGIC_AT: usize = 0x202;
/// First boot protocol with a 64-bit entry flag.
const SETUP_VERSION_64: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;

/// A kernel format that can be booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// ELF for x86-64, to be entered by its PVH note.
    Elf,
    /// bzImage with a 64-bit entry.
    BzImage,
}

/// Why a file is no kernel for us.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ImageError {
    #[error("kernel {path:?} does not exist; check the path given to --kernel")]
    Missing { path: PathBuf },
    #[error("kernel {path:?} is a folder; name the vmlinux or bzImage file in it")]
    Folder { path: PathBuf },
    #[error("could not read kernel {path:?}; check its permissions")]
    Read { path: PathBuf, source: io::Error },
    #[error("kernel {path:?} is empty; give a vmlinux or bzImage file")]
    Empty { path: PathBuf },
    #[error("kernel {path:?} has {mib} MiB; no kernel has more than {max} MiB: give a vmlinux or bzImage", max = MAX_IMAGE_BYTES >> 20)]
    TooLarge { path: PathBuf, mib: u64 },
    #[error("kernel {path:?} is neither an ELF vmlinux nor a bzImage; give one of these")]
    Unknown { path: PathBuf },
    #[error("kernel {path:?} is an ELF file for {found}; this VMM runs x86-64 kernels")]
    Architecture { path: PathBuf, found: String },
    #[error("kernel {path:?} is a damaged bzImage, get it again: {what}")]
    BzImage { path: PathBuf, what: String },
    #[error("kernel {path:?} is a damaged ELF file, get it again: {what}")]
    Elf { path: PathBuf, what: &'static str },
}

/// Opens a kernel image and says what it is.
pub fn open(path: &Path) -> Result<(File, Format), ImageError> {
    let read = |source| ImageError::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ImageError::Missing { path: path.into() },
        _ => read(error),
    })?;
    let metadata = file.metadata().map_err(read)?;
    if metadata.is_dir() {
        return Err(ImageError::Folder { path: path.into() });
    }
    let bytes = metadata.len();
    if bytes == 0 {
        return Err(ImageError::Empty { path: path.into() });
    }
    if bytes > MAX_IMAGE_BYTES {
        return Err(ImageError::TooLarge {
            path: path.into(),
            mib: bytes >> 20,
        });
    }
    let mut head = vec![0; usize::try_from(bytes.min(4096)).unwrap_or(4096)];
    file.read_exact_at(&mut head, 0).map_err(read)?;
    let format = identify(path, &head, bytes)?;
    Ok((file, format))
}

/// Decides by the first bytes of a file of `bytes` bytes.
fn identify(path: &Path, head: &[u8], bytes: u64) -> Result<Format, ImageError> {
    if head.starts_with(ELF_MAGIC) {
        return check_elf(path, head).map(|()| Format::Elf);
    }
    if head.get(SETUP_MAGIC_AT..SETUP_MAGIC_AT + 4) == Some(SETUP_MAGIC) {
        return check_bzimage(path, head, bytes).map(|()| Format::BzImage);
    }
    Err(ImageError::Unknown { path: path.into() })
}

fn word(head: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(head.get(at..at + 2)?.try_into().ok()?))
}

fn check_elf(path: &Path, head: &[u8]) -> Result<(), ImageError> {
    let architecture = |found: String| ImageError::Architecture {
        path: path.into(),
        found,
    };
    let (Some(&class), Some(&order), Some(machine)) = (head.get(4), head.get(5), word(head, 18))
    else {
        return Err(ImageError::Elf {
            path: path.into(),
            what: "its header is cut off",
        });
    };
    if order != ELF_LITTLE_ENDIAN {
        return Err(architecture("a big-endian machine".into()));
    }
    if machine != ELF_MACHINE_X86_64 {
        return Err(architecture(match machine {
            3 => "32-bit x86".into(),
            40 => "32-bit ARM".into(),
            183 => "64-bit ARM".into(),
            243 => "RISC-V".into(),
            other => format!("machine number {other}"),
        }));
    }
    if class != ELF_CLASS_64 {
        return Err(architecture("32-bit code".into()));
    }
    if head.len() < 64 {
        return Err(ImageError::Elf {
            path: path.into(),
            what: "its header is cut off",
        });
    }
    Ok(())
}

fn check_bzimage(path: &Path, head: &[u8], bytes: u64) -> Result<(), ImageError> {
    let bad = |what: String| ImageError::BzImage {
        path: path.into(),
        what,
    };
    let cut = || bad("its setup header is cut off".into());
    let version = word(head, 0x206).ok_or_else(cut)?;
    if version < SETUP_VERSION_64 {
        return Err(bad(format!(
            "boot protocol {version:#x} has no 64-bit entry"
        )));
    }
    let xloadflags = word(head, 0x236).ok_or_else(cut)?;
    if xloadflags & XLF_KERNEL_64 == 0 {
        return Err(bad("it has no 64-bit entry (a 32-bit kernel?)".into()));
    }
    let sectors = match head.get(0x1f1) {
        Some(0) | None => 4,
        Some(&sectors) => u64::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    // Linux `boot.rst`: syssize counts the protected-mode code in units of 16 bytes.
    let declared = u32::from_le_bytes(
        head.get(0x1f4..0x1f8)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(cut)?,
    );
    let declared = u64::from(declared) * 16;
    if setup >= bytes {
        return Err(bad(format!(
            "setup code of {setup} bytes in a file of {bytes}"
        )));
    }
    // The last paragraph may be padded, so the file can be up to 15 bytes short.
    if declared == 0 || setup + declared > bytes + 15 {
        return Err(bad(format!(
            "its header promises {declared} bytes of code, the file has {}",
            bytes - setup
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bzimage(sectors: u8, syssize: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[0x1f1] = sectors;
        head[0x1f4..0x1f8].copy_from_slice(&syssize.to_le_bytes());
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x206..0x208].copy_from_slice(&0x020fu16.to_le_bytes());
        head[0x236] = 1;
        head
    }

    fn elf(machine: u16) -> Vec<u8> {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head
    }

    fn message(head: &[u8], bytes: u64) -> String {
        identify(Path::new("k"), head, bytes)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn good_headers_are_recognised() {
        assert_eq!(identify(Path::new("k"), &elf(62), 64).unwrap(), Format::Elf);
        let image = bzimage(3, 100);
        assert_eq!(
            identify(Path::new("k"), &image, 2048 + 1600).unwrap(),
            Format::BzImage
        );
    }

    #[test]
    fn wrong_machines_are_named() {
        assert!(message(&elf(183), 64).contains("64-bit ARM"));
        assert!(message(&elf(40), 64).contains("32-bit ARM"));
        assert!(message(&elf(62)[..20], 20).contains("cut off"));
        assert!(message(b"\x7fELF", 4).contains("cut off"));
    }

    #[test]
    fn a_bzimage_that_lies_about_its_size_is_refused() {
        assert!(message(&bzimage(3, u32::MAX), 4096).contains("promises"));
        assert!(message(&bzimage(255, 1), 4096).contains("setup code"));
        assert!(message(&bzimage(3, 0), 4096).contains("promises"));
        assert!(message(&bzimage(3, 10)[..0x210], 0x210).contains("cut off"));
    }

    #[test]
    fn anything_else_is_neither() {
        assert!(message(b"hello", 5).contains("neither"));
    }
}
