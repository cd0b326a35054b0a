//! SHA-256 of parameters: equal numbers have equal digests, whatever file format or element type they were stored in.

use std::fmt;

use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use sha2::{Digest as _, Sha256};

use super::tensor::{HostTensor, Parameters};
use super::throttle::Throttle;

/// A SHA-256, printed as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Returns the digest of one tensor: of its rank, its dimensions (u64 little-endian) and its values (f32
    /// little-endian).
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

    /// Returns the digest of named tensors, in the order of their names, followed by `labels`. Each string is preceded by
    /// its length (u64 little-endian).
    pub fn of_parameters(parameters: &Parameters, labels: &[String]) -> Self {
        Self::combine(
            parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest())),
            labels,
        )
    }

    /// Returns the digest of a head with a spec, whose canonical JSON includes the labels: of a name that no other digest
    /// begins with, the spec, and [`Digest::of_parameters`] without labels. Each string is preceded by its length.
    pub fn of_head(parameters: &Parameters, spec: &str) -> Self {
        let mut hash = Sha256::new();
        update_with_string(&mut hash, "headswap.head/2");
        update_with_string(&mut hash, spec);
        hash.update(Self::of_parameters(parameters, &[]).0);
        Self(hash.finalize().into())
    }

    /// As [`Digest::of_parameters`], from the tensors' digests; `tensors` must be sorted by name.
    pub fn combine<'a>(tensors: impl IntoIterator<Item = (&'a str, Digest)>, labels: &[String]) -> Self {
        let mut hash = Sha256::new();
        for (name, digest) in tensors {
            update_with_string(&mut hash, name);
            hash.update(digest.0);
        }
        for label in labels {
            update_with_string(&mut hash, label);
        }
        Self(hash.finalize().into())
    }

    /// Returns the digest by which heads identify their backbone: [`Digest::combine`] of the parameters before the last
    /// Linear, so that backbones that compute the same features have the same digest. `tensors` may be in any order.
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

    /// Returns its 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Parses what [`Digest`] prints; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes().as_chunks().0;
        let bytes: Vec<u8> = digits.iter().map(parse_byte).collect::<Option<_>>()?;
        let digest = Self(bytes.try_into().ok()?);
        (digest.to_string() == text).then_some(digest)
    }

    /// Returns its first 12 hexadecimal digits, for logs and folder names.
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

fn update_with_string(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_le_bytes());
    hash.update(text.as_bytes());
}

fn parse_byte(digits: &[u8; 2]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_printed_form_is_parsed() {
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
