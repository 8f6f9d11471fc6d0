//! Signatures: a receiver can tell that a body comes from us and when it was sent.

use std::fmt::Write;

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

/// The header in which a signature stands.
pub const HEADER: &str = "x-guard-signature";

/// The signature of `body`, sent at `now`: `t=SECONDS,v1=HEX`, where the latter is HMAC-SHA256 over `SECONDS.BODY`.
pub fn signature(secret: &SecretString, now: Timestamp, body: &[u8]) -> String {
    let seconds = now.as_second();
    let mut signed = format!("{seconds}.").into_bytes();
    signed.extend_from_slice(body);
    let tag = sign(&Key::new(HMAC_SHA256, secret.expose_secret().as_bytes()), &signed);
    let mut signature = format!("t={seconds},v1=");
    for byte in tag.as_ref() {
        // writing to a String cannot fail
        let _ = write!(signature, "{byte:02x}");
    }
    signature
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::desired::tests::second;

    #[test]
    fn a_signature_as_any_other_program_computes_it() {
        // printf '1700000000.{}' | openssl dgst -sha256 -hmac secret
        let found = signature(&SecretString::from("secret"), second(1_700_000_000), b"{}");
        assert_eq!(found, "t=1700000000,v1=b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163");
    }
}
