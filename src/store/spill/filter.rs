//! Which keys a run may hold: a Bloom filter in blocks of one cache line.
//!
//! Ten bits a key answer "no" for 99 of 100 keys that are not there, so a new key costs no read.

const BITS_PER_KEY: usize = 10;
/// Words of 64 bits in a block.
const BLOCK: usize = 8;
/// Bits that a key sets, all in one block.
const PROBES: u32 = 6;

pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    pub fn with_room(keys: usize) -> Filter {
        let blocks = (keys * BITS_PER_KEY).div_ceil(BLOCK * 64).max(1);
        Filter { words: vec![0; blocks * BLOCK] }
    }

    pub fn insert(&mut self, hash: u64) {
        let block = self.block(hash);
        for bit in bits(hash) {
            self.words[block + bit / 64] |= 1 << (bit % 64);
        }
    }

    /// `false`: certainly not.
    pub fn may_hold(&self, hash: u64) -> bool {
        let block = self.block(hash);
        bits(hash).all(|bit| self.words[block + bit / 64] & (1 << (bit % 64)) != 0)
    }

    pub fn size(&self) -> usize {
        self.words.capacity() * 8
    }

    fn block(&self, hash: u64) -> usize {
        let blocks = (self.words.len() / BLOCK) as u64;
        (((hash >> 32) * blocks) >> 32) as usize * BLOCK
    }
}

/// Nine bits of the hash's lower half, mixed, for each probe.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = (hash & 0xFFFF_FFFF | 1 << 32).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (0..PROBES).map(move |probe| (mixed >> (9 * probe + 10)) as usize % (BLOCK * 64))
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;

    #[test]
    fn what_was_put_in_is_found_and_little_else() {
        let hash = |n: u64| xxh3_64(&n.to_be_bytes());
        let mut filter = Filter::with_room(10_000);
        (0..10_000).for_each(|n| filter.insert(hash(n)));
        assert!((0..10_000).all(|n| filter.may_hold(hash(n))));
        let wrong = (10_000..110_000).filter(|n| filter.may_hold(hash(*n))).count();
        assert!(wrong < 3_000, "{wrong} of 100,000 are taken to be there");
    }
}
