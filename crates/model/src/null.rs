//! A network that computes nothing, to measure the server alone and to see what it does when a device fails.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use headswap_checkpoint::Parameters;
use headswap_spec::LAST_BIAS;

use super::backend::{Backend, BackendError, HeadRows, Outputs, PlacedHead, Placer, StillWanted};
use super::settings::Device;

/// What a network that computes nothing does instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NullSettings {
    /// How long each row of a batch takes.
    pub row: Duration,
    /// How it fails.
    pub fault: Option<NullFault>,
}

/// A fault that a head with a certain number of classes brings about, so that a test decides when.
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
    /// From the first batch with the head on, every batch fails.
    Fail,
    /// From the first batch with the head on, every batch panics.
    Panic,
    /// The first batch with the head loses the device.
    Lose,
}

/// A fault was spelled wrong.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a fault; use poison, nan, fail, panic or lose, a colon and a number of classes")]
pub struct ParseFaultError(String);

impl FromStr for NullFault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseFaultError(text.to_owned());
        let (kind, classes) = text.split_once(':').ok_or_else(error)?;
        let kind = match kind {
            "poison" => FaultKind::Poison,
            "nan" => FaultKind::Nan,
            "fail" => FaultKind::Fail,
            "panic" => FaultKind::Panic,
            "lose" => FaultKind::Lose,
            _ => return Err(error()),
        };
        let classes = classes.parse().map_err(|_| error())?;
        Ok(Self { kind, classes })
    }
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

/// Answers zeros, at once unless told otherwise; `width` is the length of a row of features.
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
    /// How every batch fails from now on.
    broken: Option<FaultKind>,
}

struct NullPlacer;

impl NullBackend {
    /// The number of classes of heads that give NaN.
    fn nan_classes(&self) -> Option<usize> {
        let nan = |fault: &NullFault| fault.kind == FaultKind::Nan;
        self.settings.fault.filter(nan).map(|fault| fault.classes)
    }

    fn fail(&mut self, groups: &[HeadRows<'_>]) -> Result<(), BackendError> {
        let Some(fault) = self.settings.fault else {
            return Ok(());
        };
        let asked = groups.iter().any(|group| group.head.classes == fault.classes);
        let lasts = matches!(fault.kind, FaultKind::Fail | FaultKind::Panic);
        if asked && lasts {
            self.broken = Some(fault.kind);
        }
        match self.broken.or(Some(fault.kind).filter(|_| asked && !lasts)) {
            Some(FaultKind::Panic) => std::panic::panic_any("the null network was told to panic"),
            Some(FaultKind::Lose) => Err(BackendError::Lost("the null network was told to be lost".into())),
            Some(FaultKind::Fail | FaultKind::Poison) => {
                Err(BackendError::Device("the null network was told to fail".into()))
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
        pictures: &[&[u8]],
        groups: &[HeadRows<'_>],
        features: &[usize],
        wanted: &mut dyn StillWanted,
    ) -> Result<Outputs, BackendError> {
        if !wanted.still_wanted() {
            return Err(BackendError::NotWanted);
        }
        if !self.settings.row.is_zero() {
            std::thread::sleep(self.settings.row * pictures.len() as u32);
        }
        self.fail(groups)?;
        Ok(Outputs {
            logits: self.logits(&[], groups)?,
            features: vec![0.0; features.len() * self.width],
            steps: Vec::new(),
        })
    }

    fn logits(&mut self, _features: &[&[f32]], groups: &[HeadRows<'_>]) -> Result<Vec<Vec<f32>>, BackendError> {
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
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, BackendError> {
        Ok(PlacedHead::new(parameters[LAST_BIAS].values.len(), 0, Box::new(())))
    }
}
