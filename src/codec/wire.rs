//! Where a record names its writer's schema, as Confluent's serializers write it: in front of its bytes or in a header.
//!
//! In front: a zero byte and a number of four bytes (big endian), or a byte 1 and a GUID of sixteen; the body follows. In a header
//! (`__value_schema_id`, `__key_schema_id`) the same bytes are the header's value, and the record's bytes are the body alone. A header
//! goes before what the bytes look like.

use crate::contract::{Guid, SchemaId, WriterId};
use crate::error::BadClass;
use crate::record::Header;

/// Bytes in front of a body that has a number.
pub const FRAME: usize = 5;
/// The header that names the schema of a record's value.
pub const VALUE_HEADER: &str = "__value_schema_id";
/// The header that names the schema of a record's key.
pub const KEY_HEADER: &str = "__key_schema_id";

/// Why it is not known which schema bytes are of. The class is always [`BadClass::Wire`].
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

/// The schema id in front, and the body.
#[inline]
pub fn unframe(value: &[u8]) -> Result<(WriterId, &[u8]), WireFault> {
    match value {
        [0, a, b, c, d, body @ ..] => Ok((WriterId::Number(SchemaId(u32::from_be_bytes([*a, *b, *c, *d]))), body)),
        _ => guid_in_front(value),
    }
}

fn guid_in_front(value: &[u8]) -> Result<(WriterId, &[u8]), WireFault> {
    match value.split_first_chunk::<17>() {
        Some(([1, guid @ ..], body)) => Ok((WriterId::Guid(Guid(*guid)), body)),
        _ => Err(fault(value)),
    }
}

/// Ids that stand in headers, of the rows that have one.
#[derive(Clone, Debug, Default)]
pub struct HeaderIds(Vec<(u32, Result<WriterId, WireFault>)>);

impl HeaderIds {
    /// `headers` by row, ascending, as a chunk has them; of several headers of that name the last one counts.
    pub fn of(headers: &[(usize, Vec<Header>)], name: &str) -> HeaderIds {
        let id = |(row, headers): &(usize, Vec<Header>)| {
            let header = headers.iter().rev().find(|header| header.name == name)?;
            Some((*row as u32, header_id(header)))
        };
        HeaderIds(headers.iter().filter_map(id).collect())
    }

    /// The id in the headers of one record; `None`: no header names one.
    pub fn of_record(headers: &[Header], name: &str) -> Option<Result<WriterId, WireFault>> {
        headers.iter().rev().find(|header| header.name == name).map(header_id)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, (u32, Result<WriterId, WireFault>)> {
        self.0.iter()
    }
}

fn header_id(header: &Header) -> Result<WriterId, WireFault> {
    let value = header.value.as_deref().unwrap_or_default();
    match unframe(value) {
        Ok((id, [])) => Ok(id),
        _ => Err(WireFault {
            class: BadClass::Wire,
            message: format!(
                "header {} has {} bytes{}; it holds a zero byte and four bytes of a schema id, or a byte 1 and a GUID of sixteen",
                header.name,
                value.len(),
                value.first().map(|first| format!(" that begin with {first:#04x}")).unwrap_or_default()
            ),
        }),
    }
}

#[cold]
fn fault(value: &[u8]) -> WireFault {
    let wants = "a zero byte and a schema id of four bytes";
    let message = match value {
        [] => format!("the value is empty; the wire format starts with {wants}"),
        [0, ..] => format!("{} bytes are too short for the wire format: {wants}", value.len()),
        [1, ..] => format!("{} bytes are too short for the wire format: a byte 1 and a GUID of sixteen bytes", value.len()),
        [0xC3, 0x01, ..] => {
            "magic bytes C3 01: Avro's single-object encoding, not the wire format of a schema registry".to_string()
        }
        [b'O', b'b', b'j', 1, ..] => "an Avro container file, not the wire format of a schema registry".to_string(),
        [b'{' | b'[', ..] => format!("this looks like JSON, not the wire format: {wants}"),
        [magic, ..] => format!(
            "magic byte {magic:#04x} where the wire format has 0 (a number) or 1 (a GUID), and no header {VALUE_HEADER} names the schema"
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
        let id = WriterId::Number(SchemaId(0x0102_0304));
        assert_eq!(value, [0, 1, 2, 3, 4]);
        assert_eq!(unframe(&value), Ok((id, &[][..])));
        value.push(9);
        assert_eq!(unframe(&value), Ok((id, &[9][..])));
        let guid: Vec<u8> = (1..=18).collect();
        let (id, body) = unframe(&guid).unwrap();
        assert_eq!((id.to_string().as_str(), body), ("02030405-0607-0809-0a0b-0c0d0e0f1011", &[18][..]));
    }

    #[test]
    fn what_is_not_framed_is_a_wire_fault_that_says_why() {
        for (value, says) in [
            (&b""[..], "empty"),
            (&[0, 0, 0, 1], "4 bytes are too short"),
            (&[0], "1 bytes are too short"),
            (&[1; 16], "GUID of sixteen"),
            (&[0xC3, 1, 0, 0, 0, 0], "single-object"),
            (b"{\"a\":1}", "JSON"),
            (&[7, 0, 0, 0, 1, 2], "0x07"),
        ] {
            let fault = unframe(value).unwrap_err();
            assert_eq!(fault.class, BadClass::Wire);
            assert!(fault.message.contains(says), "{}", fault.message);
        }
    }

    #[test]
    fn the_last_header_of_the_name_counts() {
        let header = |value: &[u8]| Header::new(VALUE_HEADER, value);
        let headers = vec![
            (1, vec![header(&[0, 0, 0, 0, 9]), Header::new("other", [0, 0, 0, 0, 8])]),
            (3, vec![Header::new(KEY_HEADER, [0, 0, 0, 0, 8])]),
            (4, vec![header(&[7]), header(&[1; 17])]),
            (5, vec![header(&[0, 0, 0, 0, 9, 1])]),
            (6, vec![Header { name: VALUE_HEADER.into(), value: None }]),
        ];
        let ids = HeaderIds::of(&headers, VALUE_HEADER).0;
        assert_eq!(ids.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 4, 5, 6]);
        assert_eq!(ids[0].1, Ok(WriterId::Number(SchemaId(9))));
        assert_eq!(ids[1].1, Ok(WriterId::Guid(Guid([1; 16]))));
        assert!(ids[2].1.as_ref().unwrap_err().message.contains("has 6 bytes that begin with 0x00"));
        assert!(ids[3].1.as_ref().unwrap_err().message.contains("has 0 bytes"));
    }
}
