//! A network that computes nothing, to measure the server alone.

use std::sync::Arc;

use super::LAST_BIAS;
use super::network::{HeadRows, Network, NetworkError, Outputs, PlacedHead, Placer};
use super::tensor::Parameters;

/// Answers zeros at once; `features` is the length of a row of features.
pub fn null_network(features: usize) -> Box<dyn Network> {
    Box::new(NullNetwork { features })
}

struct NullNetwork {
    features: usize,
}

struct NullPlacer;

impl Network for NullNetwork {
    fn forward(
        &mut self,
        _pixels: &[u8],
        count: usize,
        groups: &[HeadRows<'_>],
        features: bool,
    ) -> Result<Outputs, NetworkError> {
        Ok(Outputs {
            logits: groups
                .iter()
                .map(|group| vec![0.0; group.rows.len() * group.head.classes])
                .collect(),
            features: features.then(|| vec![0.0; count * self.features]),
        })
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::new(NullPlacer)
    }

    fn device(&self) -> (String, String) {
        ("null".into(), "f32".into())
    }
}

impl Placer for NullPlacer {
    fn place(&self, parameters: Arc<Parameters>) -> Result<PlacedHead, NetworkError> {
        Ok(PlacedHead::new(parameters[LAST_BIAS].values.len(), Box::new(())))
    }
}
