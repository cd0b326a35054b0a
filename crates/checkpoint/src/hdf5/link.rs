//! Links of groups: their messages (section IV.A.2.g), and those that are stored densely (section IV.A.2.c).

use super::super::cursor::Cursor;
use super::btree_v2::Btree;
use super::error::{Result, damaged};
use super::fractal_heap::FractalHeap;
use super::image::{Image, defined};
use super::object_header::{ObjectHeader, kind, unsigned};
use super::symbol_table;

/// A link of a group to an object of the same file.
pub(super) struct Link {
    pub name: String,
    /// The address of the object's header.
    pub header: u64,
    order: u64,
}

impl Link {
    pub fn new(name: String, header: u64) -> Self {
        Self { name, header, order: 0 }
    }
}

/// Returns the hard links of an object in their order of creation, if the file keeps it, or by name. Symbolic links and
/// those to other files are left out. `None` if the object is not a group.
pub(super) fn links(image: &Image<'_>, header: &ObjectHeader) -> Result<Option<Vec<Link>>> {
    if let Some(table) = header.body(kind::SYMBOL_TABLE) {
        return symbol_table::links(image, table).map(Some);
    }
    let Some(info) = header.body(kind::LINK_INFO) else {
        return Ok(None);
    };
    let mut links = Vec::new();
    for message in header.messages.iter().filter(|message| message.kind == kind::LINK) {
        links.extend(parse(image, &message.body)?);
    }
    let info = dense(info).ok_or_else(|| damaged("a group's information is cut off"))?;
    if let (Some(heap), Some(index)) = info {
        let heap = FractalHeap::open(image, heap)?;
        Btree::open(image, index)?.for_each(image, |record| {
            // The hash of the name, then where the link is in the heap.
            let id = record.get(4..).unwrap_or_default();
            links.extend(parse(image, &heap.object(image, id)?)?);
            Ok(())
        })?;
    }
    links.sort_by(|a, b| (a.order, &a.name).cmp(&(b.order, &b.name)));
    Ok(Some(links))
}

/// Returns the addresses of the heap of links and of its index by name.
fn dense(info: &[u8]) -> Option<(Option<u64>, Option<u64>)> {
    let mut cursor = Cursor::new(info, 0);
    let [_version, flags] = cursor.array()?;
    let _creation_index = cursor.take(if flags & 1 != 0 { 8 } else { 0 })?;
    Some((defined(cursor.u64()?), defined(cursor.u64()?)))
}

/// Returns the link that a message describes, or `None` if it leads out of the file or through a path.
fn parse(image: &Image<'_>, body: &[u8]) -> Result<Option<Link>> {
    let link = hard_link(body).ok_or_else(|| damaged("a link is cut off"))?;
    if let Some(link) = &link {
        image.keep(link.name.len() + size_of::<Link>())?;
    }
    Ok(link)
}

fn hard_link(body: &[u8]) -> Option<Option<Link>> {
    let mut cursor = Cursor::new(body, 0);
    let [_version, flags] = cursor.array()?;
    let [class] = if flags & 0x08 != 0 { cursor.array()? } else { [0] };
    let order = if flags & 0x04 != 0 { cursor.u64()? } else { 0 };
    let _character_set = cursor.take(if flags & 0x10 != 0 { 1 } else { 0 })?;
    let name_bytes = usize::try_from(unsigned(cursor.take(1 << (flags & 3))?)).ok()?;
    let name = String::from_utf8_lossy(cursor.take(name_bytes)?).into_owned();
    if class != 0 {
        return Some(None);
    }
    let header = cursor.u64()?;
    Some(Some(Link { name, header, order }))
}
