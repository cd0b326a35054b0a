//! A network that computes nothing, to measure the server alone.

use std::sync::Arc;

use super::LAST_BIAS;
use super::network::{HeadRows, Network, NetworkError, Outputs, PlacedHead, Placer};
use super::tensor::Parameters;

/// Answers zeros at once; `width` is the length of a row of features.
pub fn null_network(width: usize) -> Box<dyn Network> {
    Box::new(NullNetwork { width })
}

struct NullNetwork {
    width: usize,
}

struct NullPlacer;

impl Network for NullNetwork {
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Network>>> {
        vec![vec![self]]
    }

    fn forward(
        &mut self,
        _pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
    ) -> Result<Outputs, NetworkError> {
        Ok(Outputs {
            logits: self.logits(&[], groups)?,
            features: vec![0.0; features.len() * self.width],
            steps: Vec::new(),
        })
    }

    fn logits(&mut self, _features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, NetworkError> {
        let zeros = |group: &HeadRows<'_>| vec![0.0; group.rows.len() * group.head.classes];
        Ok(groups.iter().map(zeros).collect())
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::new(NullPlacer)
    }

    fn steps(&self) -> Vec<String> {
        Vec::new()
    }

    fn device(&self) -> (String, String) {
        ("null".into(), "f32".into())
    }
}

impl Placer for NullPlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, NetworkError> {
        Ok(PlacedHead::new(parameters[LAST_BIAS].values.len(), 0, Box::new(())))
    }
}
