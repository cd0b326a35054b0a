//! Parts of pictures, and what is joined: the channels of a picture in another order, or the poolings of one map.

use crate::{CheckpointError, ModuleKind};

use super::axes::Axis;
use super::chain::{Link, path};
use super::model::Node;
use super::pixels;
use super::values::{Activation, Content, Value};
use super::walk::Walk;

/// The end of a slice of all, or a larger one: tf2onnx writes this, PyTorch more.
const ALL: i64 = 1_000_000_000;

impl Walk<'_, '_> {
    /// Channels of a picture, by Gather or Slice.
    pub fn taken(&self, node: &Node, inputs: &[Option<Value>], x: &Activation) -> Result<Activation, CheckpointError> {
        let Content::Pixels(channels) = &x.content else {
            return Err(node.refused("takes a part of what the network computes"));
        };
        let places = match node.operator.as_str() {
            "Gather" => {
                let indices = self.numbers(inputs.get(1))?.filter(|indices| !indices.is_scalar);
                let known = indices.and_then(|indices| indices.known());
                let axis = x.axes.place(node.int("axis", 0));
                known.filter(|_| is_channels(x, axis)).map(|indices| {
                    let count = channels.len() as i64;
                    indices
                        .into_iter()
                        .map(|index| if index < 0 { index + count } else { index } as usize)
                        .collect()
                })
            }
            _ => self.sliced(node, inputs, x, channels.len())?,
        };
        picked(x, places.as_deref()).ok_or_else(|| node.refused("takes a part of the picture"))
    }

    fn sliced(
        &self,
        node: &Node,
        inputs: &[Option<Value>],
        x: &Activation,
        channels: usize,
    ) -> Result<Option<Vec<usize>>, CheckpointError> {
        let starts = self.ints(node, inputs.get(1), "starts")?.unwrap_or_default();
        let ends = self.ints(node, inputs.get(2), "ends")?.unwrap_or_default();
        let axes = self.ints(node, inputs.get(3), "axes")?;
        let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
        let steps = self
            .ints(node, inputs.get(4), "steps")?
            .unwrap_or_else(|| vec![1; starts.len()]);
        let mut places: Vec<usize> = (0..channels).collect();
        for (place, axis) in axes.iter().enumerate() {
            let (Some(start), Some(end), Some(step)) = (starts.get(place), ends.get(place), steps.get(place)) else {
                return Ok(None);
            };
            if is_channels(x, x.axes.place(*axis)) {
                let Some(taken) = super::numbers::indices(*start, *end, *step, channels) else {
                    return Ok(None);
                };
                places = taken;
            } else if (*start, *step) != (0, 1) || *end < ALL {
                // Anything but all of another dimension.
                return Ok(None);
            }
        }
        Ok(Some(places))
    }

    /// The channels of a picture, each or some of them apart.
    pub fn split(&self, node: &Node, inputs: &[Option<Value>], x: &Activation) -> Result<Vec<Value>, CheckpointError> {
        let refused = || node.refused("takes a part of the picture");
        let Content::Pixels(channels) = &x.content else {
            return Err(node.refused("takes a part of what the network computes"));
        };
        if !is_channels(x, x.axes.place(node.int("axis", 0))) || node.outputs.is_empty() {
            return Err(refused());
        }
        let even = channels.len() / node.outputs.len();
        let sizes = self.ints(node, inputs.get(1), "split")?;
        let sizes = sizes.unwrap_or_else(|| vec![even as i64; node.outputs.len()]);
        let mut parts = Vec::new();
        let mut start = 0;
        for size in sizes {
            let end = usize::try_from(size)
                .ok()
                .and_then(|size| size.checked_add(start))
                .ok_or_else(refused)?;
            if end > channels.len() || parts.len() == node.outputs.len() {
                return Err(refused());
            }
            let places: Vec<usize> = (start..end).collect();
            parts.push(Value::Activation(picked(x, Some(&places)).ok_or_else(refused)?));
            start = end;
        }
        match start == channels.len() {
            true => Ok(parts),
            false => Err(refused()),
        }
    }

    /// Channels of a picture one after the other; or the largest values and the means of a map.
    pub fn concat(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
    ) -> Result<Activation, CheckpointError> {
        let mut parts = Vec::new();
        for input in inputs {
            match input {
                Some(Value::Activation(part)) => parts.push(part),
                _ => return Err(node.refused("adds constants to what the network computes")),
            }
        }
        let Some(first) = parts.first() else {
            return Err(node.unknown());
        };
        let axis = first.axes.place(node.int("axis", 0));
        let mut channels = Vec::new();
        for part in &parts {
            if let Content::Pixels(pixels) = &part.content
                && is_channels(part, axis)
                && part.axes.order == first.axes.order
            {
                channels.extend_from_slice(pixels);
            }
        }
        if parts.iter().all(|part| matches!(part.content, Content::Pixels(_))) {
            if channels.is_empty() || channels.len() > pixels::CHANNELS_MAX {
                return Err(node.refused("joins parts of pictures"));
            }
            let mut joined = (*first).clone();
            joined.axes.channels = Some(channels.len());
            joined.content = Content::Pixels(channels.into());
            return Ok(joined);
        }
        self.concatenated_pools(node, index, &parts)
    }

    /// fastai's `AdaptiveConcatPool2d`.
    fn concatenated_pools(
        &mut self,
        node: &Node,
        index: usize,
        parts: &[&Activation],
    ) -> Result<Activation, CheckpointError> {
        let joins = || node.refused("joins several branches");
        let [largest, mean] = parts else { return Err(joins()) };
        let tips = [self.settled(node, largest)?, self.settled(node, mean)?];
        let (Some(first), Some(second)) = (self.chain.get(tips[0]), self.chain.get(tips[1])) else {
            return Err(joins());
        };
        let one = [1, 1];
        let is_pair = first.kind == ModuleKind::AdaptiveMaxPool { size: one }
            && second.kind == ModuleKind::AdaptiveAveragePool { size: one }
            && first.before == second.before
            && largest.axes == mean.axes
            && largest.axes.place(node.int("axis", 0)) == Some(1);
        if !is_pair {
            return Err(joins());
        }
        let kind = ModuleKind::Other("AdaptiveConcatPool2d".to_owned());
        let link = Link::new(first.before, kind, path(node, index, None));
        let mut axes = largest.axes.clone();
        axes.values = axes.values.and_then(|values| values.checked_mul(2));
        Ok(Activation::computed(axes, self.chain.push(link)))
    }
}

fn is_channels(x: &Activation, place: Option<usize>) -> bool {
    place.is_some_and(|place| x.axes.order.get(place) == Some(&Axis::Channels))
}

/// These channels of a picture.
fn picked(x: &Activation, places: Option<&[usize]>) -> Option<Activation> {
    let (Content::Pixels(channels), Some(places)) = (&x.content, places) else {
        return None;
    };
    if places.is_empty() || places.len() > pixels::CHANNELS_MAX {
        return None;
    }
    let picked: Option<Vec<_>> = places.iter().map(|place| channels.get(*place).copied()).collect();
    let mut result = x.clone();
    result.axes.channels = Some(places.len());
    result.content = Content::Pixels(picked?.into());
    Some(result)
}
