//! Message boundaries in a gRPC body: each message is one byte of flags, four bytes of length, then the payload
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>).

const HEADER_BYTES: usize = 5;

/// Counts the messages of a body without storing their bytes.
#[derive(Debug, Default)]
pub(crate) struct Framing {
    header_bytes: usize,
    /// The bytes of the header's length field that have arrived.
    length: u32,
    /// Bytes of the current message that have not arrived.
    missing: usize,
    whole_messages: u64,
}

impl Framing {
    /// Processes the next bytes of the body.
    pub fn received(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.header_bytes < HEADER_BYTES {
                // The four bytes of length shift out the first byte, the flags.
                self.length = self.length << 8 | u32::from(*first);
                self.header_bytes += 1;
                self.missing = self.length as usize;
                bytes = rest;
            } else {
                let payload = self.missing.min(bytes.len());
                self.missing -= payload;
                bytes = bytes.get(payload..).unwrap_or_default();
            }
            if self.header_bytes == HEADER_BYTES && self.missing == 0 {
                self.whole_messages = self.whole_messages.saturating_add(1);
                (self.header_bytes, self.length) = (0, 0);
            }
        }
    }

    /// Returns true if at least one message has arrived and the last one is complete.
    pub fn whole(&self) -> bool {
        self.whole_messages > 0 && self.header_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        let header = [&[1], (length as u32).to_be_bytes().as_slice()].concat();
        [header, vec![0xff; length]].concat()
    }

    proptest! {
        #[test]
        fn messages_are_counted_for_any_chunk_size(lengths in prop::collection::vec(0_usize..600, 1..5), cut in 1_usize..700) {
            let bodies: Vec<Vec<u8>> = lengths.iter().map(|length| message(*length)).collect();
            let mut framing = Framing::default();
            prop_assert!(!framing.whole());
            for body in &bodies {
                for (index, piece) in body.chunks(cut).enumerate() {
                    framing.received(piece);
                    prop_assert_eq!(framing.whole(), (index + 1) * cut >= body.len());
                }
            }
            prop_assert_eq!(framing.whole_messages, lengths.len() as u64);
            let mut at_once = Framing::default();
            at_once.received(&bodies.concat());
            prop_assert!(at_once.whole());
            at_once.received(&[0]);
            prop_assert!(!at_once.whole());
        }
    }
}
