//! Java's default partitioner: murmur2 over the bytes of the key.

/// The partition (from 0) that Java's producer gives to a record with this key: `Utils.toPositive(Utils.murmur2(key)) % partitions`
/// of `org.apache.kafka.common.utils.Utils`. `partitions` is above 0.
pub fn murmur2(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (hash(key) & 0x7fff_ffff) % partitions
}

/// `Utils.murmur2`: 32 bits, seed 0x9747b28c.
fn hash(key: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ (key.len() as u32);
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("a chunk of four")).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let tail = words.remainder();
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    (h ^ (h >> 15)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn hashes_are_those_of_kafka() {
        for (key, hash_of) in [
            ("21", -973932308),
            ("foobar", -790332482),
            ("a-little-bit-long-string", -985981536),
            ("a-little-bit-longer-string", -1486304829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            ("abc", 479470107),
        ] {
            assert_eq!(hash(key.as_bytes()), hash_of, "{key}");
            assert_eq!(murmur2(key.as_bytes(), 7), (hash_of & 0x7fff_ffff) % 7);
        }
    }
}
