//! The hashes of the snapshot.
//!
//! # The home of a key
//!
//! All nodes, of all versions, must name the same home for the same key over the
//! same datacenters. So these functions never change; another rule would need a
//! new protocol version. With 64-bit wrapping arithmetic:
//!
//! - `fnv(bytes)` is FNV-1a: start with `0xcbf29ce484222325`; for each byte, exclusive-or it in,
//!   then multiply by `0x00000100000001b3`.
//! - `mix(x)` is the finalizer of splitmix64: `x ^= x >> 30; x *= 0xbf58476d1ce4e5b9; x ^= x >> 27;
//!   x *= 0x94d049bb133111eb; x ^= x >> 31`.
//! - `score(dc, key) = mix(mix(fnv(dc's id)) ^ mix(fnv(key) + 0x9e3779b97f4a7c15))`.
//! - The home is the eligible DC with the highest score; of equal scores, the DC whose id is lower, byte by byte.
//!
//! A DC that joins takes over only the keys that it now scores highest for, and
//! one that leaves gives up only its own: about one in n of all keys.

/// FNV-1a, 64 bit.
pub const fn fnv(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// The finalizer of splitmix64: every bit of `x` touches every bit of the result.
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The hash of a datacenter's id, for [`score`].
pub const fn data_center(id: &str) -> u64 {
    mix(fnv(id.as_bytes()))
}

/// The hash of a key, for [`score`].
pub const fn key(key: &[u8]) -> u64 {
    mix(fnv(key).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// How well a datacenter suits a key, both given as their hashes.
pub const fn score(data_center: u64, key: u64) -> u64 {
    mix(data_center ^ key)
}

/// The hash of the snapshot's own indexes: eight bytes a step. Private to one process; may change.
pub(super) fn index(bytes: &[u8]) -> u64 {
    const K: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (bytes.len() as u64).wrapping_mul(K);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        // A chunk of `chunks_exact(8)` is eight bytes long.
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        hash = fold(hash ^ word, K);
    }
    // The rest is read in whole words that may overlap what was read: copying it would cost more than all else.
    let rest = match (bytes.last_chunk::<8>(), bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(last), ..) => u64::from_le_bytes(*last),
        (None, Some(first), Some(last)) => {
            u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
        }
        // At most three bytes: the first, the middle and the last are all there are.
        _ => [0, bytes.len() / 2, bytes.len().saturating_sub(1)]
            .iter()
            .fold(0, |word, at| word << 8 | u64::from(bytes.get(*at).copied().unwrap_or(0))),
    };
    fold(hash ^ rest, 0xd6e8_feb8_6659_fd93)
}

/// Both halves of the 128-bit product, folded into one.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_is_the_published_function() {
        // From the test vectors of the function's authors.
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_index_hash_tells_every_byte_apart() {
        let mut seen = std::collections::BTreeSet::new();
        for length in 0..40_usize {
            assert!(seen.insert(index(&vec![b'x'; length])), "length {length}");
            for at in 0..length {
                let mut text = vec![b'x'; length];
                text[at] = b'y';
                assert!(seen.insert(index(&text)), "byte {at} of {length}");
            }
        }
    }

    #[test]
    fn g2_the_scores_never_change() {
        // Computed once from the rule above by another program: another value here is another home for every grain.
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
        let score = score(data_center("eu/dc-1"), key(b"cart/user-42"));
        assert_eq!(score, 0xae92_4b89_4494_688f, "{score:#x}");
    }
}
