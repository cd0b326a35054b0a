//! The backbones of a server, as its heads see them.

use std::collections::BTreeMap;

use headswap_checkpoint::{Digest, Parameters};
use headswap_spec::{CompleteSpec, HeadInput, LayerKind, Preprocessing, Step};

use super::error::HeadError;

/// Maximum bytes of a backbone's name.
pub const BACKBONE_NAME_BYTES_MAX: usize = 64;

/// One backbone.
#[derive(Clone, Debug)]
pub struct KnownBackbone {
    /// Its name, by which callers choose it.
    pub name: String,
    /// The SHA-256 of its parameters before the last Linear, by which stored heads identify it.
    pub digest: Digest,
    /// What releases before 0.2.0 identified it by.
    pub legacy_digest: Digest,
    /// The origin of its weights.
    pub source: String,
    /// How its pictures are prepared; those of heads on it without a spec are, too.
    pub preprocessing: Preprocessing,
    /// True if it computes `features`, that is, if its file has the Linears before the last one.
    pub has_features: bool,
    /// The digests of its parameters before the last Linear, any of which a head may override. A head's tensor with the same
    /// digest is dropped, as it overrides nothing.
    pub parameters: BTreeMap<String, Digest>,
}

/// The backbones of a server, at least one. The first is the default one.
#[derive(Clone, Debug)]
pub struct Backbones(Vec<KnownBackbone>);

impl Backbones {
    /// Returns a list of these backbones.
    pub fn new(first: KnownBackbone, others: impl IntoIterator<Item = KnownBackbone>) -> Self {
        let mut all = vec![first];
        all.extend(others);
        Self(all)
    }

    /// Returns the backbones, the default one first.
    pub fn all(&self) -> &[KnownBackbone] {
        &self.0
    }

    /// Returns the default backbone.
    pub fn first(&self) -> &KnownBackbone {
        &self.0[0]
    }

    /// Returns the backbone of an index, which must come from this list.
    pub fn get(&self, index: usize) -> &KnownBackbone {
        &self.0[index]
    }

    /// Returns the index of a backbone by its name; an empty name is the default one's.
    ///
    /// # Errors
    /// [`HeadError::UnknownBackbone`].
    pub fn find(&self, name: &str) -> Result<usize, HeadError> {
        if name.is_empty() {
            return Ok(0);
        }
        let found = self.0.iter().position(|backbone| backbone.name == name);
        found.ok_or_else(|| HeadError::UnknownBackbone {
            name: name.chars().take(BACKBONE_NAME_BYTES_MAX).collect(),
            known: self.0.iter().map(|backbone| backbone.name.clone()).collect(),
        })
    }

    /// Returns the index of the backbone with which a head shares most bytes of equal parameters: the first of several, so that
    /// a head that shares none belongs to the default one.
    pub fn nearest(&self, parameters: &Parameters) -> usize {
        let (mut nearest, mut most) = (0, 0);
        for (index, backbone) in self.0.iter().enumerate() {
            let shared = backbone.shared_bytes(parameters);
            if shared > most {
                (nearest, most) = (index, shared);
            }
        }
        nearest
    }
}

impl KnownBackbone {
    /// Returns a whole backbone with whose parameters none are compared, so that heads on it keep all of theirs.
    pub fn of_any_heads(name: &str, digest: Digest, preprocessing: Preprocessing) -> Self {
        Self {
            name: name.to_owned(),
            digest,
            legacy_digest: digest,
            source: String::new(),
            preprocessing,
            has_features: true,
            parameters: BTreeMap::new(),
        }
    }

    /// Returns true if it has an equal parameter of this name.
    pub fn has(&self, name: &str, digest: Digest) -> bool {
        self.parameters.get(name) == Some(&digest)
    }

    fn shared_bytes(&self, parameters: &Parameters) -> usize {
        let mut bytes = 0;
        for (name, tensor) in parameters {
            // A digest of a tensor that no backbone names is not needed.
            if self.parameters.contains_key(name) && self.has(name, tensor.digest()) {
                bytes += tensor.bytes();
            }
        }
        bytes
    }

    /// Checks that it computes what the head's own layers take, with the parameters that the head overrides.
    ///
    /// # Errors
    /// [`HeadError::NoFeatures`].
    pub(super) fn check(&self, steps: &[Step], parameters: &Parameters, spec: &CompleteSpec) -> Result<(), HeadError> {
        if self.has_features || spec.input != HeadInput::Features {
            return Ok(());
        }
        for step in steps {
            let is_linear = matches!(step.kind, LayerKind::Linear { .. });
            if is_linear && !(parameters.contains_key(&step.weight()) && parameters.contains_key(&step.bias())) {
                return Err(HeadError::NoFeatures {
                    backbone: self.name.clone(),
                    lacking: step.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Returns true for a valid name of a backbone.
pub fn is_backbone_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=BACKBONE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headswap_checkpoint::HostTensor;
    use headswap_spec::{Architecture, Preset};
    use proptest::prelude::*;

    use super::*;

    fn tensor(value: f32, count: usize) -> Arc<HostTensor> {
        Arc::new(HostTensor::new(vec![count], vec![value; count]))
    }

    fn known(name: &str, parameters: &Parameters, has_features: bool) -> KnownBackbone {
        let digest = Digest::of_parameters(parameters, &[name.to_owned()]);
        let mut digests = BTreeMap::new();
        for (name, tensor) in parameters {
            digests.insert(name.clone(), tensor.digest());
        }
        KnownBackbone {
            has_features,
            parameters: digests,
            ..KnownBackbone::of_any_heads(name, digest, Preset::Torchvision.preprocessing())
        }
    }

    fn parameters(values: &[u8]) -> Parameters {
        let mut parameters = Parameters::new();
        for (index, value) in values.iter().enumerate() {
            parameters.insert(
                format!("features.{index}.weight"),
                tensor(f32::from(*value), 1 + 7 * index),
            );
        }
        parameters
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// No other backbone shares more, and none before it shares as much.
        #[test]
        fn the_nearest_backbone_shares_most(
            backbones in prop::collection::vec(prop::collection::vec(0u8..3, 0..6), 1..5),
            head in prop::collection::vec(0u8..3, 0..6),
        ) {
            let of_head = parameters(&head);
            let mut all = Vec::new();
            for (index, values) in backbones.iter().enumerate() {
                all.push(known(&format!("b{index}"), &parameters(values), true));
            }
            let shared: Vec<usize> = backbones
                .iter()
                .map(|values| {
                    let equal = values.iter().zip(&head).enumerate().filter(|(_, (a, b))| a == b);
                    equal.map(|(index, _)| 4 * (1 + 7 * index)).sum()
                })
                .collect();
            let known = Backbones::new(all.remove(0), all);
            let nearest = known.nearest(&of_head);
            prop_assert!(shared.iter().all(|other| *other <= shared[nearest]));
            prop_assert!(shared[..nearest].iter().all(|other| *other < shared[nearest]));
        }
    }

    #[test]
    fn a_backbone_is_found_by_its_name() {
        let none = Parameters::new();
        let all = Backbones::new(known("default", &none, true), [known("keras", &none, false)]);
        assert_eq!((all.find("").unwrap(), all.find("keras").unwrap()), (0, 1));
        let error = all.find("torch").unwrap_err().to_string();
        assert_eq!(error, "there is no backbone `torch`; this server has default, keras");
        for (name, valid) in [
            ("keras", true),
            ("a.b-c_1", true),
            ("", false),
            ("A", false),
            ("a/b", false),
        ] {
            assert_eq!(is_backbone_name(name), valid, "{name}");
        }
        assert!(!is_backbone_name(&"a".repeat(65)));
    }

    #[test]
    fn features_need_linears_of_the_backbone_or_of_the_head() {
        let steps = Architecture::Vgg16Narrow.steps();
        let spec = CompleteSpec::plain(Preset::Torchvision.preprocessing(), 2);
        let lacking = known("keras", &Parameters::new(), false);
        let mut own = Parameters::new();
        let error = lacking.check(&steps, &own, &spec).unwrap_err().to_string();
        assert!(error.contains("`keras`") && error.contains("classifier.0"), "{error}");
        for name in [
            "classifier.0.weight",
            "classifier.0.bias",
            "classifier.3.weight",
            "classifier.3.bias",
        ] {
            own.insert(name.to_owned(), tensor(1.0, 1));
        }
        lacking.check(&steps, &own, &spec).unwrap();
        known("whole", &Parameters::new(), true)
            .check(&steps, &Parameters::new(), &spec)
            .unwrap();
        let pooled = CompleteSpec {
            input: HeadInput::GlobalAverage,
            ..spec
        };
        lacking.check(&steps, &Parameters::new(), &pooled).unwrap();
    }
}
