//! The reference identifier of an address (RFC 5905 §7.3): IPv4 as it is, of IPv6 the first
//! four bytes of its MD5, which is only a name here and protects nothing.
use std::net::IpAddr;

const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

/// What others call the server at this address when they follow it.
#[must_use]
pub fn reference_id(address: IpAddr) -> [u8; 4] {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = md5(v6.octets());
            [a, b, c, d]
        }
    }
}

/// MD5 (RFC 1321) of sixteen bytes: one block.
fn md5(message: [u8; 16]) -> [u8; 16] {
    let mut block = [0_u32; 16];
    for (word, bytes) in block.iter_mut().zip(message.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    block[4] = 0x80;
    block[14] = 128; // bits
    let start = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    let [mut a, mut b, mut c, mut d] = start;
    for i in 0..64_usize {
        let (mixed, word) = match i / 16 {
            0 => ((b & c) | (!b & d), i),
            1 => ((d & b) | (!d & c), (5 * i + 1) % 16),
            2 => (b ^ c ^ d, (3 * i + 5) % 16),
            _ => (c ^ (b | !d), 7 * i % 16),
        };
        let constant = (libm::sin((i + 1) as f64).abs() * 4_294_967_296.0) as u32;
        let sum = a.wrapping_add(mixed).wrapping_add(constant).wrapping_add(block[word]);
        (a, d, c) = (d, c, b);
        b = b.wrapping_add(sum.rotate_left(TURNS[i / 16][i % 4]));
    }
    let mut out = [0; 16];
    for (bytes, (begun, ended)) in out.chunks_exact_mut(4).zip(start.into_iter().zip([a, b, c, d]))
    {
        bytes.copy_from_slice(&begun.wrapping_add(ended).to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_others_compute() {
        let digest = u128::from_be_bytes(md5(*b"0123456789abcdef"));
        assert_eq!(digest, 0x4032_af8d_6103_5123_906e_58e0_6714_0cc5);
        assert_eq!(reference_id("192.0.2.7".parse().unwrap()), [192, 0, 2, 7]);
        assert_eq!(reference_id("::ffff:192.0.2.7".parse().unwrap()), [192, 0, 2, 7]);
        assert_ne!(
            reference_id("fd00::1".parse().unwrap()),
            reference_id("fd00::2".parse().unwrap())
        );
    }
}
