//! A backend that computes nothing, to measure the server alone and to test how it handles a failing device.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use headswap_checkpoint::Parameters;
use headswap_spec::CompleteSpec;

use super::backend::{
    Backend, BackendError, HeadRows, InputRow, Outputs, PlacedHead, Placer, StillWanted, WantedInput,
};
use super::settings::Device;

/// The settings of the null backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NullSettings {
    /// The time of each row of a batch.
    pub row: Duration,
    /// The fault to simulate.
    pub fault: Option<NullFault>,
}

/// A fault that a head of a certain number of classes triggers, so that a test controls when it occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullFault {
    kind: FaultKind,
    classes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FaultKind {
    /// Batches with the head fail.
    Poison,
    /// The head's logits are NaN.
    Nan,
    /// The first batch with the head fails, and every batch after it.
    Fail,
    /// The first batch with the head panics, and every batch after it.
    Panic,
    /// The first batch with the head loses the device.
    Lose,
}

/// The text is not a fault.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a fault; use poison, nan, fail, panic or lose, a colon and a number of classes")]
pub struct ParseFaultError(String);

impl FromStr for NullFault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_fault(text).ok_or_else(|| ParseFaultError(text.to_owned()))
    }
}

fn parse_fault(text: &str) -> Option<NullFault> {
    let (kind, classes) = text.split_once(':')?;
    let kind = match kind {
        "poison" => FaultKind::Poison,
        "nan" => FaultKind::Nan,
        "fail" => FaultKind::Fail,
        "panic" => FaultKind::Panic,
        "lose" => FaultKind::Lose,
        _ => return None,
    };
    let classes = classes.parse().ok()?;
    Some(NullFault { kind, classes })
}

impl fmt::Display for NullFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FaultKind::Poison => "poison",
            FaultKind::Nan => "nan",
            FaultKind::Fail => "fail",
            FaultKind::Panic => "panic",
            FaultKind::Lose => "lose",
        };
        write!(f, "{kind}:{}", self.classes)
    }
}

/// Returns a backend whose results are zeros, without delay by default. `width` is the number of features.
pub fn null_backend(width: usize, settings: NullSettings) -> Box<dyn Backend> {
    Box::new(NullBackend {
        width,
        settings,
        broken: None,
    })
}

struct NullBackend {
    width: usize,
    settings: NullSettings,
    /// The fault of every further batch.
    broken: Option<FaultKind>,
}

struct NullPlacer;

impl NullBackend {
    /// Returns the number of classes of heads whose logits are NaN.
    fn nan_classes(&self) -> Option<usize> {
        let fault = self.settings.fault.filter(|fault| fault.kind == FaultKind::Nan);
        fault.map(|fault| fault.classes)
    }

    fn fail(&mut self, groups: &[HeadRows<'_>]) -> Result<(), BackendError> {
        let Some(fault) = self.settings.fault else {
            return Ok(());
        };
        let is_triggered = groups.iter().any(|group| group.head.classes == fault.classes);
        let is_lasting = matches!(fault.kind, FaultKind::Fail | FaultKind::Panic);
        if is_triggered && is_lasting {
            self.broken = Some(fault.kind);
        }
        match self.broken.or(Some(fault.kind).filter(|_| is_triggered && !is_lasting)) {
            Some(FaultKind::Panic) => std::panic::panic_any("the null backend is set to panic"),
            Some(FaultKind::Lose) => Err(BackendError::Lost("the null backend is set to lose its device".into())),
            Some(FaultKind::Fail | FaultKind::Poison) => {
                Err(BackendError::Device("the null backend is set to fail".into()))
            }
            Some(FaultKind::Nan) | None => Ok(()),
        }
    }
}

impl Backend for NullBackend {
    fn into_lanes(self: Box<Self>) -> Vec<Vec<Box<dyn Backend>>> {
        vec![vec![self]]
    }

    fn forward_if(
        &mut self,
        rows: &[InputRow<'_>],
        groups: &[HeadRows<'_>],
        wanted: &[WantedInput],
        still_wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        if !still_wanted.still_wanted() {
            return Err(BackendError::NotWanted);
        }
        if !self.settings.row.is_zero() {
            std::thread::sleep(self.settings.row * rows.len() as u32);
        }
        self.fail(groups)?;
        Ok(Outputs {
            logits: self.logits(&[], groups)?,
            inputs: vec![vec![0.0; self.width]; wanted.len()],
            steps: Vec::new(),
        })
    }

    fn logits(&mut self, _inputs: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
        let nan = self.nan_classes();
        let mut logits = Vec::with_capacity(groups.len());
        for group in groups {
            let classes = group.head.classes;
            let value = if nan == Some(classes) { f32::NAN } else { 0.0 };
            logits.push(vec![value; group.rows.len() * classes]);
        }
        Ok(logits)
    }

    fn placer(&self) -> Arc<dyn Placer> {
        Arc::new(NullPlacer)
    }

    fn steps(&self) -> Vec<String> {
        Vec::new()
    }

    fn devices(&self) -> Vec<Device> {
        vec![Device::Null]
    }

    fn precision(&self) -> &'static str {
        "f32"
    }
}

impl Placer for NullPlacer {
    fn place_on(
        &self,
        backbone: usize,
        parameters: &Parameters,
        spec: &CompleteSpec,
    ) -> Result<PlacedHead, BackendError> {
        let bias = spec.parameter_names(spec.last_linear()).map(|[_, bias]| bias);
        let classes = bias
            .and_then(|bias| parameters.get(&bias))
            .map_or(0, |bias| bias.values.len());
        Ok(PlacedHead::new(spec, classes, 0, Box::new(())).on_backbone(backbone))
    }
}
