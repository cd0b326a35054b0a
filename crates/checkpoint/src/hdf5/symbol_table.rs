//! Groups as the first versions of HDF5 store them: a B-tree of symbol nodes (sections III.A.1 and III.B), with names in a
//! local heap (section III.D).

use std::collections::HashSet;

use bytes::Bytes;

use super::super::cursor::Cursor;
use super::error::{Result, damaged, unsupported};
use super::image::Image;
use super::link::Link;

/// Limit of the levels of a B-tree.
pub(super) const LEVELS_MAX: usize = 16;
/// Limit of the nodes of a B-tree that are known and still to be read.
pub(super) const NODES_MAX: usize = 1 << 16;
/// The bytes of a B-tree's node before its keys.
pub(super) const NODE_START_BYTES: u64 = 24;
/// The bytes of an entry of a symbol node.
const ENTRY_BYTES: u64 = 40;
/// How an entry says that it is a symbolic link.
const SYMBOLIC: u32 = 2;

/// Returns the hard links of the group with this message (section IV.A.2.r), by name.
pub(super) fn links(image: &Image<'_>, message: &[u8]) -> Result<Vec<Link>> {
    let mut cursor = Cursor::new(message, 0);
    let (Some(tree), Some(heap)) = (cursor.u64(), cursor.u64()) else {
        return Err(damaged("a symbol table is cut off"));
    };
    let names = local_heap(image, heap)?;
    let mut links = Vec::new();
    let mut seen = HashSet::new();
    // Nodes that are still to be read, the next one last.
    let mut nodes = vec![(tree, LEVELS_MAX)];
    while let Some((address, levels)) = nodes.pop() {
        if !seen.insert(address) {
            return Err(damaged("a group's index leads to the same node twice"));
        }
        if image.read_up_to(address, 4)?[..] == *b"SNOD" {
            symbols(image, address, &names, &mut links)?;
            continue;
        }
        let (_, children) = children(image, address, 8, 0)?;
        let levels = levels
            .checked_sub(1)
            .ok_or_else(|| unsupported("has a group with too deep an index"))?;
        if nodes.len() + children.len() > NODES_MAX {
            return Err(unsupported("has a group with too large an index"));
        }
        let children = children.into_iter().rev();
        nodes.extend(children.map(|(_, child)| (child, levels)));
    }
    Ok(links)
}

/// Returns the level of a node of a B-tree of version 1, which is 0 for leaves, and its keys and children.
pub(super) fn children(image: &Image<'_>, address: u64, key_bytes: usize, kind: u8) -> Result<(u8, Vec<(Bytes, u64)>)> {
    let start = image.read(address, NODE_START_BYTES)?;
    let mut cursor = Cursor::new(&start, 0);
    let (signature, found, count) = (cursor.array(), cursor.array(), cursor.u16());
    let (Some(b"TREE"), Some([found, level]), Some(count)) = (signature.as_ref(), found, count) else {
        return Err(damaged("an index is not where an object says"));
    };
    if found != kind {
        return Err(damaged("an index is of another kind than its object"));
    }
    let count = usize::from(count);
    let entry_bytes = key_bytes + 8;
    let entries = image.read(address + NODE_START_BYTES, (count * entry_bytes) as u64)?;
    let entries = entries.chunks_exact(entry_bytes).enumerate().map(|(index, entry)| {
        let child = Cursor::new(entry, key_bytes).u64().unwrap_or(u64::MAX);
        let key_start = index * entry_bytes;
        (entries.slice(key_start..key_start + key_bytes), child)
    });
    Ok((level, entries.collect()))
}

/// Appends the hard links of a symbol node.
fn symbols(image: &Image<'_>, address: u64, names: &Bytes, links: &mut Vec<Link>) -> Result<()> {
    let start = image.read(address, 8)?;
    let count = Cursor::new(&start, 6).u16().unwrap_or(0);
    let entries = image.read(address + 8, u64::from(count) * ENTRY_BYTES)?;
    for entry in entries.chunks_exact(ENTRY_BYTES as usize) {
        let mut cursor = Cursor::new(entry, 0);
        let (Some(name), Some(header), Some(class)) = (cursor.u64(), cursor.u64(), cursor.u32()) else {
            return Err(damaged("a symbol is cut off"));
        };
        if class == SYMBOLIC {
            continue;
        }
        let name = usize::try_from(name).ok().and_then(|start| names.get(start..));
        let name = name.and_then(|rest| rest.split(|byte| *byte == 0).next());
        let name = name.ok_or_else(|| damaged("a name is outside its group's names"))?;
        image.keep(name.len() + size_of::<Link>())?;
        links.push(Link::new(String::from_utf8_lossy(name).into_owned(), header));
    }
    Ok(())
}

fn local_heap(image: &Image<'_>, address: u64) -> Result<Bytes> {
    let start = image.read(address, 32)?;
    let mut cursor = Cursor::new(&start, 0);
    let (signature, _version, bytes, _free, data) =
        (cursor.array(), cursor.u32(), cursor.u64(), cursor.u64(), cursor.u64());
    match (signature.as_ref(), bytes, data) {
        (Some(b"HEAP"), Some(bytes), Some(data)) => image.read(data, bytes),
        _ => Err(damaged("a group's names are not where the group says")),
    }
}
