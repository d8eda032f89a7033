//! The Confluent wire format: magic byte 0, a schema id of four bytes (big endian), the body.

use crate::contract::SchemaId;
use crate::error::BadClass;

/// Bytes in front of the body.
pub const FRAME: usize = 5;

/// Why bytes are not in the wire format. The class is always [`BadClass::Wire`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFault {
    pub class: BadClass,
    pub message: String,
}

/// The five bytes in front of a body.
pub fn frame(id: SchemaId) -> [u8; FRAME] {
    let [a, b, c, d] = id.0.to_be_bytes();
    [0, a, b, c, d]
}

/// The schema id and the body.
pub fn unframe(value: &[u8]) -> Result<(SchemaId, &[u8]), WireFault> {
    match value {
        [0, a, b, c, d, body @ ..] => Ok((SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), body)),
        _ => Err(fault(value)),
    }
}

#[cold]
fn fault(value: &[u8]) -> WireFault {
    let message = match value {
        [] => "the value is empty; the wire format starts with a zero byte and a schema id of four bytes".to_string(),
        [0, ..] => format!("{} bytes are too short for the wire format: a zero byte and a schema id of four bytes", value.len()),
        [1, rest @ ..] if rest.len() >= 16 => {
            "magic byte 1: the schema id is a GUID, which is not supported; have the producer write numeric ids".to_string()
        }
        [0xC3, 0x01, ..] => {
            "magic bytes C3 01: Avro's single-object encoding, not the wire format of a schema registry".to_string()
        }
        [b'O', b'b', b'j', 1, ..] => "an Avro container file, not the wire format of a schema registry".to_string(),
        [b'{' | b'[', ..] => "this looks like JSON, not the wire format: magic byte 0 and a schema id".to_string(),
        [magic, ..] => format!(
            "magic byte {magic:#04x} where the wire format has 0 (a producer that puts the schema id into a header is not supported)"
        ),
    };
    WireFault { class: BadClass::Wire, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framed_bytes_come_apart_again() {
        let mut value = frame(SchemaId(0x0102_0304)).to_vec();
        assert_eq!(value, [0, 1, 2, 3, 4]);
        assert_eq!(unframe(&value), Ok((SchemaId(0x0102_0304), &[][..])));
        value.push(9);
        assert_eq!(unframe(&value), Ok((SchemaId(0x0102_0304), &[9][..])));
    }

    #[test]
    fn what_is_not_framed_is_a_wire_fault_that_says_why() {
        for (value, says) in [
            (&b""[..], "empty"),
            (&[0, 0, 0, 1], "4 bytes are too short"),
            (&[0], "1 bytes are too short"),
            (&[1; 17], "GUID"),
            (&[0xC3, 1, 0, 0, 0, 0], "single-object"),
            (b"{\"a\":1}", "JSON"),
            (&[7, 0, 0, 0, 1, 2], "0x07"),
        ] {
            let fault = unframe(value).unwrap_err();
            assert_eq!(fault.class, BadClass::Wire);
            assert!(fault.message.contains(says), "{}", fault.message);
        }
    }
}
