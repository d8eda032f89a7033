//! What the transaction coordinators remember: records of the internal topic `__transaction_state`.
//!
//! librdkafka can't list transactions (KIP-664), so the topic is read as any other, and its records are decoded here: `TransactionLogKey`
//! version 0 and `TransactionLogValue` versions 0 and 1 (flexible, KIP-482: lengths as varints plus one, fields with tags at the end).
//! Of several records with one key the last counts; one without a value says that the id was forgotten.

use crate::error::{Error, Result};
use crate::record::{Topic, TopicPartition};

/// Where the coordinators keep it; compacted.
pub const TOPIC: &str = "__transaction_state";
const KEY_VERSION: i16 = 0;

/// Where a transactional id stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    pub producer_id: i64,
    pub epoch: i16,
    pub timeout_ms: i32,
    pub state: State,
    /// That it has touched; none once all its markers are written.
    pub partitions: Vec<TopicPartition>,
    /// Milliseconds since 1970.
    pub updated_at: i64,
    /// `None`: no transaction was begun yet.
    pub started_at: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
    Dead,
    PrepareEpochFence,
}

impl State {
    const ALL: [State; 8] = [
        State::Empty,
        State::Ongoing,
        State::PrepareCommit,
        State::PrepareAbort,
        State::CompleteCommit,
        State::CompleteAbort,
        State::Dead,
        State::PrepareEpochFence,
    ];

    /// As Kafka's own tools spell it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Ongoing => "Ongoing",
            State::PrepareCommit => "PrepareCommit",
            State::PrepareAbort => "PrepareAbort",
            State::CompleteCommit => "CompleteCommit",
            State::CompleteAbort => "CompleteAbort",
            State::Dead => "Dead",
            State::PrepareEpochFence => "PrepareEpochFence",
        }
    }

    /// Some of its partitions may lack their markers: it holds back who reads committed records.
    pub fn is_open(self) -> bool {
        matches!(self, State::Ongoing | State::PrepareCommit | State::PrepareAbort | State::PrepareEpochFence)
    }
}

/// The transactional id that a record is about; `None`: a record of another kind, of a later version of Kafka.
///
/// # Errors
/// `Corrupt` for bytes that Kafka can't have written.
pub fn transactional_id(key: &[u8]) -> Result<Option<String>> {
    let mut cursor = Cursor { bytes: key, at: 0 };
    if cursor.i16()? != KEY_VERSION {
        return Ok(None);
    }
    let length = cursor.i16()?;
    let id = cursor.text(usize::try_from(length).map_err(|_| cursor.wrong("a text of negative length"))?)?;
    cursor.end()?;
    Ok(Some(id))
}

/// # Errors
/// `Corrupt` for bytes that Kafka can't have written, and for a version that is not known here.
pub fn transaction(value: &[u8]) -> Result<Transaction> {
    let mut cursor = Cursor { bytes: value, at: 0 };
    let flexible = match cursor.i16()? {
        0 => false,
        1 => true,
        version => {
            return Err(Error::corrupt(format!("a transaction's state of version {version}, and 0 and 1 are known here"))
                .hint("the brokers are newer than this version of tidemill: use Kafka's own kafka-transactions.sh"));
        }
    };
    let (producer_id, epoch, timeout_ms, status) = (cursor.i64()?, cursor.i16()?, cursor.i32()?, cursor.i8()?);
    let state = usize::try_from(status).ok().and_then(|at| State::ALL.get(at).copied());
    let state = state.ok_or_else(|| cursor.wrong(&format!("no state has the number {status}")))?;
    let partitions = if flexible { cursor.partitions_flexible()? } else { cursor.partitions()? };
    let (updated_at, started_at) = (cursor.i64()?, cursor.i64()?);
    if flexible {
        cursor.tagged_fields()?;
    }
    cursor.end()?;
    let started_at = Some(started_at).filter(|at| *at >= 0);
    Ok(Transaction { producer_id, epoch, timeout_ms, state, partitions, updated_at, started_at })
}

/// Kafka's protocol types: big-endian numbers, lengths before texts and arrays.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn wrong(&self, what: &str) -> Error {
        Error::corrupt(format!("byte {} of {}: {what}", self.at, self.bytes.len()))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.wrong(&format!("{length} more bytes are missing")))?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many were taken"))
    }

    fn i8(&mut self) -> Result<i8> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Seven bits a byte, the lowest first.
    fn varint(&mut self) -> Result<u32> {
        let mut value: u32 = 0;
        for shift in (0..32).step_by(7) {
            let [byte] = self.array()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.wrong("a number of more than 32 bits"))
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| self.wrong("a text that is not UTF-8"))
    }

    /// -1: null.
    fn count(&mut self) -> Result<usize> {
        match self.i32()? {
            -1 => Ok(0),
            count => usize::try_from(count).map_err(|_| self.wrong("an array of negative length")),
        }
    }

    /// 0: null.
    fn count_flexible(&mut self) -> Result<usize> {
        Ok((self.varint()? as usize).saturating_sub(1))
    }

    fn partitions(&mut self) -> Result<Vec<TopicPartition>> {
        let mut found = Vec::new();
        for _ in 0..self.count()? {
            let length = self.i16()?;
            let topic = Topic::new(self.text(usize::try_from(length).map_err(|_| self.wrong("a topic without a name"))?)?);
            for _ in 0..self.count()? {
                found.push(topic.partition(self.i32()?));
            }
        }
        Ok(found)
    }

    fn partitions_flexible(&mut self) -> Result<Vec<TopicPartition>> {
        let mut found = Vec::new();
        for _ in 0..self.count_flexible()? {
            let length = (self.varint()? as usize).checked_sub(1).ok_or_else(|| self.wrong("a topic without a name"))?;
            let topic = Topic::new(self.text(length)?);
            for _ in 0..self.count_flexible()? {
                found.push(topic.partition(self.i32()?));
            }
            self.tagged_fields()?;
        }
        Ok(found)
    }

    /// Fields that are there only where they are not at their default: nothing here needs one.
    fn tagged_fields(&mut self) -> Result<()> {
        let mut highest = None;
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            if highest.is_some_and(|highest| tag <= highest) {
                return Err(self.wrong("tags out of order"));
            }
            highest = Some(tag);
            let length = self.varint()? as usize;
            self.take(length)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => Err(self.wrong(&format!("{more} bytes too many"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    // Producer 4711, epoch 3, timeout 15,000 ms, Ongoing, orders 0 and 2, changed at 1,767,571,200,123, begun at 1,767,571,200,000.
    const VERSION_0: &str = "0000 0000000000001267 0003 00003a98 01
        00000001 0006 6f7264657273 00000002 00000000 00000002
        0000019b8b74187b 0000019b8b741800";
    // The same; tags 0 (the former producer id, 4710) and 2 (the client's version, 2).
    const VERSION_1: &str = "0001 0000000000001267 0003 00003a98 01
        02 07 6f7264657273 03 00000000 00000002 00
        0000019b8b74187b 0000019b8b741800
        02 00 08 0000000000001266 02 02 0002";
    const KEY: &str = "0000 0005 73686f702e";

    fn ongoing() -> Transaction {
        let orders = Topic::new("orders");
        Transaction {
            producer_id: 4711,
            epoch: 3,
            timeout_ms: 15_000,
            state: State::Ongoing,
            partitions: vec![orders.partition(0), orders.partition(2)],
            updated_at: 1_767_571_200_123,
            started_at: Some(1_767_571_200_000),
        }
    }

    #[test]
    fn both_versions_say_the_same() {
        assert_eq!(transaction(&bytes(VERSION_0)).unwrap(), ongoing());
        assert_eq!(transaction(&bytes(VERSION_1)).unwrap(), ongoing());
        assert_eq!(transactional_id(&bytes(KEY)).unwrap().as_deref(), Some("shop."));
    }

    #[test]
    fn an_id_without_a_transaction_has_no_partitions_and_no_beginning() {
        let empty = |partitions: &str, tags: &str, version: &str| {
            let text =
                format!("{version} 0000000000000001 0000 0000ea60 00 {partitions} 0000019b8b74187b ffffffffffffffff {tags}");
            transaction(&bytes(&text)).unwrap()
        };
        let expected = Transaction {
            producer_id: 1,
            epoch: 0,
            timeout_ms: 60_000,
            state: State::Empty,
            partitions: Vec::new(),
            started_at: None,
            ..ongoing()
        };
        assert_eq!(empty("ffffffff", "", "0000"), expected);
        assert_eq!(empty("00000000", "", "0000"), expected);
        assert_eq!(empty("00", "00", "0001"), expected);
        assert_eq!(empty("01", "00", "0001"), expected);
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_refused_at_its_byte() {
        for whole in [VERSION_0, VERSION_1] {
            let whole = bytes(whole);
            for length in 0..whole.len() {
                let error = transaction(&whole[..length]).unwrap_err();
                assert!(error.message.contains("missing"), "{length}: {error}");
            }
            let error = transaction(&[&whole[..], &[0]].concat()).unwrap_err();
            assert!(error.message.contains("too many"), "{error}");
        }
        let key = bytes(KEY);
        (0..key.len()).for_each(|length| drop(transactional_id(&key[..length]).unwrap_err()));
    }

    #[test]
    fn other_versions_states_and_huge_lengths_are_told_apart() {
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes(VERSION_1);
            bytes[at] = to;
            transaction(&bytes).unwrap_err()
        };
        let newer = changed(1, 2);
        assert!(newer.message.contains("version 2") && newer.hint.unwrap().contains("kafka-transactions.sh"));
        assert!(changed(16, 8).message.contains("no state has the number 8"));
        // An array and a text of more than there is.
        let huge = "0001 0000000000001267 0003 00003a98 01 ffffffff0f ffffffff0f";
        assert!(transaction(&bytes(huge)).unwrap_err().message.contains("missing"));
        assert!(transaction(&bytes("0001 0000000000001267 0003 00003a98 01 ffffffff1f")).is_err());
        assert!(transaction(&bytes("0000 0000000000001267 0003 00003a98 01 fffffffe")).is_err());
        // A kind of record that is not there yet is none of ours.
        assert_eq!(transactional_id(&bytes("0001 0005 73686f702e")).unwrap(), None);
        assert!(transactional_id(&bytes("0000 ffff")).is_err());
    }
}
