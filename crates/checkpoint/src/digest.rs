//! SHA-256 of numbers: the same whatever file format or element type they came in, as long as the numbers are the same.

use std::fmt;

use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use sha2::{Digest as _, Sha256};

use super::tensor::{HostTensor, Parameters};
use super::throttle::Throttle;

/// A SHA-256, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of one tensor: its rank, its dimensions (u64 little-endian) and its values (f32 little-endian).
    pub(super) fn of_tensor(tensor: &HostTensor, throttle: &Throttle) -> Self {
        let mut hash = Sha256::new();
        hash.update((tensor.shape.len() as u64).to_le_bytes());
        for &dimension in &tensor.shape {
            hash.update((dimension as u64).to_le_bytes());
        }
        let mut block = Vec::with_capacity(64 * 1024);
        for values in tensor.values.chunks(16 * 1024) {
            block.clear();
            block.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            hash.update(&block);
            throttle.pause();
        }
        Self(hash.finalize().into())
    }

    /// Of named tensors, in the order of their names, followed by `labels`; each string behind its length (u64).
    pub fn of_parameters(parameters: &Parameters, labels: &[String]) -> Self {
        Self::combine(
            parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest())),
            labels,
        )
    }

    /// As [`Digest::of_parameters`], from tensor digests already made; `tensors` must come in the order of their names.
    pub fn combine<'a>(tensors: impl IntoIterator<Item = (&'a str, Digest)>, labels: &[String]) -> Self {
        let mut hash = Sha256::new();
        let text = |hash: &mut Sha256, s: &str| {
            hash.update((s.len() as u64).to_le_bytes());
            hash.update(s.as_bytes());
        };
        for (name, digest) in tensors {
            text(&mut hash, name);
            hash.update(digest.0);
        }
        for label in labels {
            text(&mut hash, label);
        }
        Self(hash.finalize().into())
    }

    /// Of a backbone, by which heads know theirs: as [`Digest::combine`] of the parameters before the last Linear, so that two
    /// backbones with the same features are one. `tensors` may come in any order.
    pub fn of_backbone<'a>(tensors: impl IntoIterator<Item = (&'a str, Digest)>) -> Self {
        let mut features: Vec<(&str, Digest)> = Vec::new();
        for (name, digest) in tensors {
            if ![LAST_WEIGHT, LAST_BIAS].contains(&name) {
                features.push((name, digest));
            }
        }
        features.sort_unstable();
        Self::combine(features, &[])
    }

    /// Its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads what [`Digest`] prints.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes().as_chunks().0;
        let byte = |digits: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok();
        let bytes: Vec<u8> = digits.iter().map(byte).collect::<Option<_>>()?;
        let digest = Self(bytes.try_into().ok()?);
        (digest.to_string() == text).then_some(digest)
    }

    /// Its first 12 hexadecimal digits, for logs and folder names.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read() {
        let digest = Digest::of_parameters(&Parameters::new(), &["a".into()]);
        let text = digest.to_string();
        assert_eq!(Digest::parse(&text), Some(digest));
        for wrong in [
            "",
            "e",
            "é",
            &text[1..],
            &format!("{text}0"),
            &format!("+{}", &text[1..]),
            &text.to_uppercase(),
        ] {
            assert_eq!(Digest::parse(wrong), None, "{wrong}");
        }
    }
}
