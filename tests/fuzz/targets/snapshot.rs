//! What might be on disk in the place of the last known good state.
#![no_main]

use bouncers::engine::snapshot::{Snapshot, seal};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // as it is, and as somebody would have it who can compute a checksum
    for file in [bytes.to_vec(), seal(bytes)] {
        if let Ok(snapshot) = Snapshot::decode("", file) {
            assert_eq!(snapshot.chunks().map(|chunk| chunk.len()).sum::<usize>(), snapshot.len());
        }
    }
});
