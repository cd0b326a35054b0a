//! Poolings.

use crate::{CheckpointError, ModuleKind};

use super::axes::Axis;
use super::chain::{Link, path};
use super::layers::all_are;
use super::model::Node;
use super::values::{Activation, Value};
use super::walk::Walk;

const ACTIVATED: &str = "pools what was normalised or activated after the last pooling, which heads do not have";

impl Walk<'_, '_> {
    /// MaxPool or AveragePool with a window.
    pub fn pool(&mut self, node: &Node, index: usize, x: &Activation) -> Result<Activation, CheckpointError> {
        self.not_of_pixels(node, x)?;
        if !x.axes.is_map() {
            return Err(node.refused("does not pool a map with its channels first"));
        }
        let Some([rows, columns]) = window(node) else {
            return Err(node.refused("has a window of another kind"));
        };
        let strides = node.ints("strides").unwrap_or_else(|| vec![1, 1]);
        let is_apart = strides == [rows as i64, columns as i64];
        let is_whole_map = x.axes.map == [Some(rows), Some(columns)];
        let is_max = node.operator == "MaxPool";
        if !all_are(node, "dilations", 1) || !self.has_no_padding(node, x, [rows, columns]) {
            return Err(node.refused("pools with padding or dilation"));
        }
        let before = self.settled(node, x)?;
        let is_after_pool = self
            .chain
            .get(before)
            .is_some_and(|link| link.kind == ModuleKind::MaxPool);
        let path = path(node, index, None);
        let mut axes = x.axes.clone();
        if (rows, columns) == (1, 1) && is_apart {
            return Ok(x.clone());
        }
        let link = match (is_max, is_whole_map) {
            (true, false) | (true, true)
                if (rows, columns) == (2, 2) && is_apart && !(is_whole_map && is_after_pool) =>
            {
                axes.map = axes.map.map(|side| side.map(|side| side / 2));
                Some(self.chain.push(Link::new(before, ModuleKind::MaxPool, path)))
            }
            (is_max, true) => {
                axes.order = vec![Axis::Batch, Axis::Values, Axis::One, Axis::One];
                axes.values = axes.channels;
                match is_max {
                    true => self.chain.push_max(before, path),
                    false => self.chain.push_mean(before, [1, 1], path),
                }
            }
            (false, false) => {
                let [Some(height), Some(width)] = axes.map else {
                    return Err(node.refused("averages windows of a map whose size the file does not fix"));
                };
                if !is_apart || !height.is_multiple_of(rows) || !width.is_multiple_of(columns) {
                    return Err(node.refused("averages windows that overlap or do not cover the map"));
                }
                let size = [height / rows, width / columns];
                axes.map = size.map(Some);
                self.chain.push_mean(before, size, path)
            }
            (true, false) => return Err(node.refused("is a pooling of another kind than VGG16's")),
        };
        match link {
            Some(link) => Ok(Activation::computed(axes, link)),
            None => Err(node.refused(ACTIVATED)),
        }
    }

    /// True if the window's places lie within the map, none of which is left at the end.
    fn has_no_padding(&self, node: &Node, x: &Activation, kernel: [usize; 2]) -> bool {
        let mut is_even = true;
        for (side, kernel) in x.axes.map.iter().zip(kernel) {
            is_even &= side.is_some_and(|side| side.is_multiple_of(kernel));
        }
        let is_padded = match node.text("auto_pad") {
            None | Some("NOTSET") => !all_are(node, "pads", 0),
            Some("VALID") => false,
            Some(_) => !is_even,
        };
        !is_padded && (node.int("ceil_mode", 0) == 0 || is_even)
    }

    /// The mean or the largest value of each channel.
    pub fn global_pool(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        self.not_of_pixels(node, x)?;
        let is_reduced = node.operator.starts_with("Reduce");
        let axes = match is_reduced {
            true => self.ints(node, inputs.get(1), "axes")?,
            false => Some(vec![2, 3]),
        };
        let mut reduced = Vec::new();
        for axis in axes.unwrap_or_default() {
            if let Some(place) = x.axes.place(axis) {
                reduced.push(x.axes.order[place]);
            }
        }
        let is_map = reduced.contains(&Axis::Rows) && reduced.contains(&Axis::Columns) && reduced.len() == 2;
        if !is_map {
            return Err(node.refused("does not reduce a map to its channels"));
        }
        let before = self.settled(node, x)?;
        let path = path(node, index, None);
        let link = match node.operator.ends_with("AveragePool") || node.operator.ends_with("Mean") {
            true => self.chain.push_mean(before, [1, 1], path),
            false => self.chain.push_max(before, path),
        };
        let Some(link) = link else {
            return Err(node.refused(ACTIVATED));
        };
        let mut axes = x.axes.clone();
        axes.values = axes.channels;
        let is_kept = !is_reduced || node.int("keepdims", 1) == 1;
        axes.order = Vec::new();
        for axis in &x.axes.order {
            match axis {
                Axis::Rows | Axis::Columns if !is_kept => {}
                Axis::Rows | Axis::Columns => axes.order.push(Axis::One),
                Axis::Channels => axes.order.push(Axis::Values),
                other => axes.order.push(*other),
            }
        }
        Ok(Activation::computed(axes, link))
    }
}

/// The rows and columns of a pooling's window.
fn window(node: &Node) -> Option<[usize; 2]> {
    let [rows, columns] = node.ints("kernel_shape")?[..] else {
        return None;
    };
    let sides = [usize::try_from(rows).ok()?, usize::try_from(columns).ok()?];
    (sides[0] > 0 && sides[1] > 0).then_some(sides)
}
