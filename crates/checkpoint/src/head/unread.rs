//! The modules of a head's path whose effect is not read: of unknown classes, or of no known place.

use headswap_spec::Output;

use super::chain::AUXILIARY;
use super::found::parent;
use super::modules::Modules;
use super::part::{Part, is_within};
use crate::{ModuleKind, excerpt};

/// Modules between the last convolution and the output that are not read, each as `path (class)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// Those that may change what the head's layers begin with.
    pub input: Vec<String>,
    /// Those that may be one of its layers.
    pub layers: Vec<String>,
}

/// What is known of a head's path through its network.
pub(super) struct HeadPath<'p> {
    /// The convolutions' paths, in order.
    pub convolutions: Vec<&'p str>,
    /// The Linears that compute `features`.
    pub features: Vec<&'p Part<'p>>,
    /// The head's own parts.
    pub head: Vec<&'p Part<'p>>,
    /// The paths of other heads' parts.
    pub dropped: Vec<&'p str>,
    /// The output that its spec says.
    pub output: Option<Output>,
}

/// Limit of the modules that one message lists.
const LISTED_MAX: usize = 4;

/// How the names of classes end that only help training.
const TRAINING: [&str; 8] = [
    "Loss",
    "Accuracy",
    "AUROC",
    "ConfusionMatrix",
    "F1Score",
    "MetricCollection",
    "Precision",
    "Recall",
];
/// The largest values and the means of a map, with a module for each (fastai).
const CONCATENATED: &str = "AdaptiveConcatPool2d";
/// A pooling around PyTorch's own (timm).
const SELECTED: &str = "SelectAdaptivePool2d";

impl Unread {
    pub fn is_empty(&self) -> bool {
        self.input.is_empty() && self.layers.is_empty()
    }

    /// Returns all of them as one text, a few of them by name.
    pub fn list(&self) -> String {
        let all: Vec<&str> = self.input.iter().chain(&self.layers).map(String::as_str).collect();
        let mut listed = all[..all.len().min(LISTED_MAX)].join(", ");
        if all.len() > LISTED_MAX {
            listed.push_str(&format!(" and {} more", all.len() - LISTED_MAX));
        }
        listed
    }
}

impl HeadPath<'_> {
    fn parts(&self) -> impl Iterator<Item = &Part<'_>> {
        self.features.iter().chain(&self.head).copied()
    }

    fn has_part_within(&self, path: &str) -> bool {
        self.parts().any(|part| is_within(part.path, path))
    }

    /// Returns true for modules that only help training, and for those of other heads.
    fn is_beside(&self, path: &str, kind: &ModuleKind) -> bool {
        let is_for_training = |class: &str| TRAINING.iter().any(|end| class.ends_with(end));
        let is_loss = matches!(kind, ModuleKind::Other(class) if is_for_training(class));
        let is_auxiliary = path
            .split('.')
            .any(|component| AUXILIARY.iter().any(|mark| component.contains(mark)));
        let is_dropped = self.dropped.iter().any(|dropped| {
            let around = parent(dropped);
            is_within(path, dropped) || !around.is_empty() && is_within(path, around)
        });
        (is_loss || is_auxiliary || is_dropped) && !self.has_part_within(path)
    }
}

impl Modules<'_> {
    /// Returns the modules from the last convolution to the output that are not read. There are none if the file has no
    /// modules of the head's own parts.
    pub fn unread(&self, head: &HeadPath<'_>) -> Unread {
        let mut unread = Unread::default();
        let places: Vec<usize> = head.parts().filter_map(|part| self.place(part.path)).collect();
        let (Some(&first), Some(&last)) = (places.iter().min(), places.iter().max()) else {
            return unread;
        };
        let convolutions = self.convolutions(head);
        let bounds = Bounds {
            convolutions,
            first,
            last,
            pooled: match head.features[..] {
                [] => self.last_pooling(convolutions.map_or(0, |(_, last)| last), first),
                // Whatever changes the features changes what the head begins with.
                _ => {
                    let own = head.head.iter().filter_map(|part| self.place(part.path));
                    own.min().unwrap_or(first)
                }
            },
        };
        // VGG16's own last pooling follows its last convolution.
        let mut pools_left = usize::from(convolutions.is_some());
        let mut place = 0;
        while let Some(module) = self.at(place) {
            let judged = match &module.kind {
                _ if !bounds.contain(place) => Judged::Read,
                kind if head.is_beside(&module.path, kind) => Judged::Beside,
                _ if self.has_others_parts(place, head) => Judged::Beside,
                ModuleKind::MaxPool if pools_left > 0 => {
                    pools_left -= 1;
                    Judged::Read
                }
                ModuleKind::Other(class) => self.judge_other(place, class, head),
                _ if self.is_read(place, head, &bounds) => Judged::Read,
                _ => Judged::Unread,
            };
            if judged == Judged::Unread {
                let list = match place < bounds.pooled {
                    true => &mut unread.input,
                    false => &mut unread.layers,
                };
                list.push(self.describe(place));
            }
            place = match judged {
                Judged::Read => place + 1,
                Judged::Beside | Judged::Unread => self.end(place),
            };
        }
        unread
    }

    /// Returns true for a module around layers with tensors none of which is the head's: another head, or another name of the
    /// network's own modules. Tensors that are neither are refused by themselves.
    fn has_others_parts(&self, place: usize, head: &HeadPath<'_>) -> bool {
        let Some(module) = self.at(place) else { return false };
        if head.has_part_within(&module.path) {
            return false;
        }
        let mut inner = (place + 1..self.end(place)).filter_map(|place| self.at(place));
        inner.any(|module| {
            matches!(
                module.kind,
                ModuleKind::Linear | ModuleKind::Conv2d { .. } | ModuleKind::BatchNorm { .. } | ModuleKind::Affine
            )
        })
    }

    /// Judges a module of an unknown class: one around the head's parts has an order that is judged by their paths.
    fn judge_other(&self, place: usize, class: &str, head: &HeadPath<'_>) -> Judged {
        let Some(module) = self.at(place) else {
            return Judged::Read;
        };
        let is_part = head.parts().any(|part| part.path == module.path);
        let is_around = head.has_part_within(&module.path) || class.ends_with(SELECTED);
        match (is_part, is_around) {
            (false, true) => Judged::Read,
            (false, false) if class.ends_with(CONCATENATED) => Judged::Beside,
            _ => Judged::Unread,
        }
    }

    /// The places of the first and the last convolution.
    fn convolutions(&self, head: &HeadPath<'_>) -> Option<(usize, usize)> {
        let first = self.place(head.convolutions.first()?)?;
        let last = self.place(head.convolutions.last()?)?;
        Some((first.min(last), first.max(last)))
    }

    /// Returns the place of the last module before a head's first part from which on there is no map, only a vector whose
    /// meaning is known; the first part's place without one.
    fn last_pooling(&self, start: usize, first: usize) -> usize {
        let mut last = first;
        for place in start..first {
            match self.at(place).map(|module| &module.kind) {
                Some(
                    ModuleKind::AdaptiveAveragePool { size: [1, 1] | [7, 7] }
                    | ModuleKind::AdaptiveMaxPool { size: [1, 1] }
                    | ModuleKind::Flatten { .. },
                ) => last = place,
                Some(ModuleKind::Other(class)) if class.ends_with(CONCATENATED) => last = place,
                _ => {}
            }
        }
        last
    }

    /// Returns true if the module's effect is in what [`Modules::read`] returns, or if it has none.
    fn is_read(&self, place: usize, head: &HeadPath<'_>, bounds: &Bounds) -> bool {
        let Some(module) = self.at(place) else { return true };
        if let Some(part) = head.parts().find(|part| part.path == module.path) {
            return self.layer_of(part).is_some();
        }
        match module.kind {
            ModuleKind::MaxPool => false,
            ModuleKind::AdaptiveAveragePool { size } => size == [1, 1] || size == [7, 7],
            ModuleKind::AdaptiveMaxPool { size } => size == [1, 1],
            // A second ReLU changes nothing, and a softmax is reported as an output that is not known.
            ModuleKind::Relu | ModuleKind::Softmax | ModuleKind::LogSoftmax => true,
            ModuleKind::Sigmoid if head.output == Some(Output::Sigmoid) && place > bounds.last => true,
            ModuleKind::LeakyRelu { .. }
            | ModuleKind::Elu { .. }
            | ModuleKind::Gelu { .. }
            | ModuleKind::Silu
            | ModuleKind::Tanh
            | ModuleKind::Sigmoid => self.has_place(place, head),
            _ => true,
        }
    }

    /// Returns true if an activation is in one Sequential with a part beside it, so that its place is known.
    fn has_place(&self, place: usize, head: &HeadPath<'_>) -> bool {
        let Some(module) = self.at(place) else { return true };
        let (mut before, mut after): (Option<usize>, Option<usize>) = (None, None);
        for part in head.parts().filter_map(|part| self.place(part.path)) {
            if part < place {
                before = before.max(Some(part));
            } else {
                after = Some(after.map_or(part, |after| after.min(part)));
            }
        }
        let beside = [before, after].into_iter().flatten();
        beside
            .filter_map(|part| self.at(part))
            .any(|part| self.is_sequential(&part.path, &module.path))
    }

    /// The place after a module and those within it.
    fn end(&self, place: usize) -> usize {
        let Some(module) = self.at(place) else { return place + 1 };
        let mut end = place + 1;
        while self.at(end).is_some_and(|inner| is_within(&inner.path, &module.path)) {
            end += 1;
        }
        end
    }

    fn describe(&self, place: usize) -> String {
        let Some(module) = self.at(place) else {
            return String::new();
        };
        let path = match module.path.as_str() {
            "" => "the network itself".to_owned(),
            path => excerpt(path),
        };
        format!("{path} ({})", module.kind.class())
    }
}

/// What becomes of a module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// It is read, or those within it are.
    Read,
    /// It is not read, and those within it are not.
    Unread,
    /// Neither it nor a module within it is on the head's path, or it is read together with them.
    Beside,
}

/// Places that say what an unread module may change.
struct Bounds {
    /// Those of the first and the last convolution.
    convolutions: Option<(usize, usize)>,
    /// The first of the parts.
    first: usize,
    /// The last of the parts.
    last: usize,
    /// From here on the head's input is known.
    pooled: usize,
}

impl Bounds {
    /// Returns true for places after the last convolution, and after a head's part that is defined before the first.
    fn contain(&self, place: usize) -> bool {
        self.convolutions
            .is_none_or(|(start, end)| place > end || (self.first..start).contains(&place))
    }
}
