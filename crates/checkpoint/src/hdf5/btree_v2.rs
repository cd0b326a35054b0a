//! B-trees of version 2 (section III.A.2), which index links, attributes and long objects.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::fractal_heap::width_of;
use super::image::{Image, defined};
use super::object_header::unsigned;

/// Limit of the levels.
const LEVELS_MAX: u16 = 8;
/// Limit of the bytes of a node. The library's have 512 to 2048.
const NODE_BYTES_MAX: usize = 64 * 1024;
/// Limit of the nodes that are known and still to be read.
const NODES_MAX: usize = 1 << 16;
/// The bytes of a node around its records: signature, version, type and checksum.
const NODE_BYTES: usize = 10;

/// A tree's header.
pub(super) struct Btree {
    node_bytes: usize,
    record_bytes: usize,
    levels: u16,
    root: Option<u64>,
    root_records: u16,
}

/// A node that is still to be read.
struct Node {
    address: u64,
    records: usize,
    /// The levels below.
    level: u16,
}

impl Btree {
    pub fn open(image: &Image<'_>, address: u64) -> Result<Self> {
        let header = image.read_up_to(address, 38)?;
        if !header.starts_with(b"BTHD") {
            return Err(damaged("an index is not where an object says"));
        }
        let tree = Self::parse(&header).ok_or_else(|| damaged("an index is cut off"))?;
        if tree.levels > LEVELS_MAX || tree.node_bytes > NODE_BYTES_MAX {
            return Err(unsupported("has too large an index"));
        }
        if tree.record_bytes == 0 || tree.node_bytes < NODE_BYTES + tree.record_bytes {
            return Err(damaged("an index has impossible nodes"));
        }
        Ok(tree)
    }

    fn parse(header: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(header, 6);
        let (node_bytes, record_bytes, levels) = (cursor.u32()?, cursor.u16()?, cursor.u16()?);
        let _percentages = cursor.u16()?;
        Some(Self {
            node_bytes: node_bytes as usize,
            record_bytes: record_bytes.into(),
            levels,
            root: defined(cursor.u64()?),
            root_records: cursor.u16()?,
        })
    }

    /// Calls `each` with every record.
    pub fn for_each(&self, image: &Image<'_>, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.visit(image, &mut |record| each(record).map(ControlFlow::Continue))
    }

    /// Calls `each` with the records, in no order, until it breaks.
    pub fn visit(&self, image: &Image<'_>, each: &mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        let widths = self.pointer_widths();
        let mut seen = HashSet::new();
        let mut nodes: Vec<Node> = Vec::new();
        nodes.extend(self.root.map(|address| Node {
            address,
            records: self.root_records.into(),
            level: self.levels,
        }));
        while let Some(node) = nodes.pop() {
            if !seen.insert(node.address) {
                return Err(damaged("an index leads to the same node twice"));
            }
            let bytes = image.read_up_to(node.address, self.node_bytes as u64)?;
            let signature: &[u8] = if node.level == 0 { b"BTLF" } else { b"BTIN" };
            if !bytes.starts_with(signature) {
                return Err(damaged("a node of an index is not where the index says"));
            }
            let mut cursor = Cursor::new(&bytes, 6);
            let records = cursor.take(node.records * self.record_bytes);
            let records = records.ok_or_else(|| damaged("a node of an index is cut off"))?;
            for record in records.chunks_exact(self.record_bytes) {
                if each(record)?.is_break() {
                    return Ok(());
                }
            }
            if let Some(level) = node.level.checked_sub(1) {
                let widths = widths[usize::from(level)];
                for _ in 0..=node.records {
                    let child = child(&mut cursor, widths, level);
                    if nodes.len() == NODES_MAX {
                        return Err(unsupported("has too large an index"));
                    }
                    nodes.push(child.ok_or_else(|| damaged("a node of an index is cut off"))?);
                }
            }
        }
        Ok(())
    }

    /// Returns, for nodes of each level, the bytes of the fields of a pointer to it: the number of the node's records, and
    /// of all records below. They are as wide as the largest number needs that fits into the nodes.
    fn pointer_widths(&self) -> Vec<[usize; 2]> {
        let leaf_max = ((self.node_bytes - NODE_BYTES) / self.record_bytes) as u64;
        let count_bytes = width_of(leaf_max);
        let mut total_max = leaf_max;
        let mut widths = vec![[count_bytes, 0]];
        for _ in 1..self.levels {
            let [_, total_bytes] = widths.last().copied().unwrap_or_default();
            let pointer = 8 + count_bytes + total_bytes;
            let records = (self.node_bytes.saturating_sub(NODE_BYTES + pointer) / (self.record_bytes + pointer)) as u64;
            total_max = (records + 1).saturating_mul(total_max).saturating_add(records);
            widths.push([count_bytes, width_of(total_max)]);
        }
        widths
    }
}

/// Reads a pointer to a node of `level`.
fn child(cursor: &mut Cursor<'_>, [count_bytes, total_bytes]: [usize; 2], level: u16) -> Option<Node> {
    let address = cursor.u64()?;
    let records = unsigned(cursor.take(count_bytes)?) as usize;
    let _total = cursor.take(total_bytes)?;
    Some(Node {
        address,
        records,
        level,
    })
}
