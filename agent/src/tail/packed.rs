//! Files that rotation has compressed.
//!
//! They can only be read from their beginning, so a place in one is found again by unpacking up to it. What they are is told
//! from their first bytes; names lie.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::rotate::PRINT_LEN;

/// How much memory unpacking may take, in KiB: what `xz -9` makes needs 65 MiB.
const MEMORY_KIB: u32 = 128 * 1024;
/// The same for Zstandard: the logarithm of the window.
const WINDOW_LOG: u32 = 27;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// `gzip`.
    Gzip,
    /// `zstd`.
    Zstd,
    /// `xz`.
    Xz,
}

impl Packing {
    /// How `file` is compressed; `None` when it is not.
    pub fn of(file: &File) -> io::Result<Option<Self>> {
        let mut start = [0; 6];
        let count = file.read_at(&mut start, 0)?;
        let start = start.get(..count).unwrap_or_default();
        Ok(if start.starts_with(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Some(Self::Zstd)
        } else if start.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else {
            None
        })
    }

    /// What the name of `path` says, for inputs whose first bytes cannot be looked at twice.
    pub fn named(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "gz" => Some(Self::Gzip),
            "zst" => Some(Self::Zstd),
            "xz" => Some(Self::Xz),
            _ => None,
        }
    }

    /// The content of `packed`.
    pub fn unpack(self, packed: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
        let packed = BufReader::with_capacity(64 * 1024, packed);
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
                decoder.window_log_max(WINDOW_LOG)?;
                Box::new(decoder)
            }
            Self::Xz => Box::new(XzReader::new_mem_limit(packed, true, MEMORY_KIB)),
        })
    }
}

/// What unpacking a file up to a place has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// How many bytes there were, at most as many as were asked for.
    pub len: u64,
    /// Whether the file ends too early: it is still being written, or damaged.
    pub broken: bool,
}

/// Unpacks up to `end` bytes of `from` and hands the first and the last of them, at most [`PRINT_LEN`] each, to `look`.
pub fn pass(from: &mut dyn Read, end: u64, look: impl FnOnce(&[u8], &[u8])) -> Passed {
    let mut buffer = vec![0; 64 * 1024];
    let (mut head, mut recent) = (Vec::new(), Vec::new());
    let mut passed = Passed { len: 0, broken: false };
    while passed.len < end {
        let room = buffer.len().min(usize::try_from(end - passed.len).unwrap_or(usize::MAX));
        let count = match from.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => {
                passed.broken = true;
                break;
            }
        };
        let chunk = &buffer[..count];
        if head.len() < PRINT_LEN {
            head.extend_from_slice(&chunk[..count.min(PRINT_LEN - head.len())]);
        }
        recent.extend_from_slice(&chunk[count.saturating_sub(PRINT_LEN)..]);
        recent.drain(..recent.len().saturating_sub(PRINT_LEN));
        passed.len += count as u64;
    }
    look(&head, &recent);
    passed
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Packs a file with the program of this name, if this host has it.
    pub(crate) fn pack(program: &str, path: &Path) -> bool {
        let status = Command::new(program).args(["-q", "-f"]).arg(path).stderr(Stdio::null()).status();
        let packed = status.is_ok_and(|status| status.success());
        // As `gzip` and `xz` do by themselves.
        packed && (program != "zstd" || std::fs::remove_file(path).is_ok())
    }

    #[test]
    fn what_the_programs_pack_is_recognised_and_unpacked() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let text = "a line of some length\n".repeat(10_000);
        for (program, extension, packing) in
            [("gzip", "gz", Packing::Gzip), ("xz", "xz", Packing::Xz), ("zstd", "zst", Packing::Zstd)]
        {
            let path = folder.path().join(program);
            std::fs::write(&path, &text).expect("room on the disk");
            assert_eq!(Packing::of(&File::open(&path).expect("our file")).expect("it is readable"), None);
            if !pack(program, &path) {
                eprintln!("SKIPPED, NOT PASSED: `{program}` is not installed");
                continue;
            }
            let path = folder.path().join(format!("{program}.{extension}"));
            let file = File::open(&path).expect("it was packed");
            assert_eq!(Packing::of(&file).expect("it is readable"), Some(packing));
            assert_eq!(Packing::named(&path), Some(packing));
            let mut unpacked = String::new();
            packing.unpack(file).expect("a header").read_to_string(&mut unpacked).expect("it is whole");
            assert_eq!(unpacked, text);
            let whole = std::fs::read(&path).expect("our file");
            std::fs::write(&path, &whole[..whole.len() / 2]).expect("room on the disk");
            let mut half = packing.unpack(File::open(&path).expect("our file")).expect("a header");
            assert!(pass(&mut half, u64::MAX, |_, _| {}).broken, "{program}");
        }
    }
}
