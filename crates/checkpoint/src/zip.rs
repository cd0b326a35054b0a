//! Reads the central directory of zip archives: stored entries, which torch.save writes, and deflated ones, which zip
//! programs make of them, with the 64-bit extension.
//!
//! No crate is used, because memory must be bounded before it is allocated, and because only the entries' ranges in the
//! file are needed. The format is PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3.

use std::borrow::Cow;
use std::collections::HashMap;

use super::cursor::Cursor;
use super::entry::{Encoding, Storage};
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::source::Source;
use super::stream::{Packed, Stream};
use super::text::excerpt;

/// Limit of the entries. torch.save writes one for each storage and five more.
const ENTRIES_MAX: u64 = 8192;
/// Limit of the bytes of the directory.
const DIRECTORY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Limit of the zeros behind the archive, with which some downloads are padded.
const PADDING_BYTES_MAX: u64 = 64 * 1024;
/// The end record with the longest comment.
const END_BYTES_MAX: u64 = 22 + 0xffff;
/// Limit of the bytes that an entry inflates to: twice a VGG16's in f64. It bounds the time that reading takes.
const INFLATED_BYTES_MAX: u64 = 2 << 30;
/// The most bytes that one byte can inflate to (RFC 1951: 258 bytes of 2 bits), and what short streams may add.
const INFLATION_MAX: u64 = 1032;

/// An archive's entries by name.
pub(super) struct Archive {
    entries: HashMap<String, Entry>,
}

/// One entry of the directory.
struct Entry {
    /// The offset of the entry's local header.
    header: u64,
    bytes: u64,
    packed_bytes: u64,
    method: Method,
}

/// How an entry's bytes are stored.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Stored,
    Deflated,
    /// Encrypted, or compressed by another method.
    Other,
}

/// The range of the directory and the number of its entries.
struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

impl Archive {
    pub fn open(source: &Source) -> Result<Self, CheckpointError> {
        let directory = find_directory(source)?;
        if directory.entries > ENTRIES_MAX || directory.bytes > DIRECTORY_BYTES_MAX {
            return Err(damaged("its directory is longer than torch.save writes".into()));
        }
        let bytes = source.read(directory.start, directory.bytes)?;
        let mut cursor = Cursor::new(&bytes, 0);
        let mut entries = HashMap::new();
        for _ in 0..directory.entries {
            let (name, entry) = read_entry(&mut cursor).ok_or_else(|| damaged("its directory is broken".into()))?;
            if entries.insert(name.clone().into_owned(), entry).is_some() {
                return Err(damaged(format!("it has two entries {}", excerpt(&name))));
            }
        }
        Ok(Self { entries })
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the range of an entry's content, or `None` if no entry has this name.
    pub fn locate(&self, source: &Source, name: &str) -> Result<Option<Storage>, CheckpointError> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        let is_possible = match entry.method {
            Method::Stored => entry.packed_bytes == entry.bytes,
            Method::Deflated => entry.bytes <= INFLATED_BYTES_MAX.min(entry.packed_bytes.saturating_mul(INFLATION_MAX)),
            Method::Other => {
                return Err(damaged(format!(
                    "{} is encrypted, or compressed by another method than deflate",
                    excerpt(name)
                )));
            }
        };
        let header = source.read_within(entry.header, 30, || misplaced(name))?;
        let mut cursor = Cursor::new(&header, 0);
        let signature = cursor.u32();
        let _versions_to_sizes = cursor.take(22);
        let (name_bytes, extra_bytes) = (cursor.u16().unwrap_or(0), cursor.u16().unwrap_or(0));
        let start = entry.header + 30 + u64::from(name_bytes) + u64::from(extra_bytes);
        let end = start.checked_add(entry.packed_bytes);
        if !is_possible || signature != Some(0x0403_4b50) || end.is_none_or(|end| end > source.length()) {
            return Err(misplaced(name));
        }
        let packed = (entry.method == Method::Deflated).then_some(Packed {
            start,
            bytes: entry.packed_bytes,
        });
        Ok(Some(Storage {
            // Offsets of a deflated entry count decoded bytes.
            start: if packed.is_some() { 0 } else { start },
            bytes: entry.bytes,
            encoding: Encoding {
                packed,
                latin1_bytes: None,
            },
        }))
    }
}

/// Returns the decoded bytes of an entry's content.
pub(super) fn content<'a>(source: &'a Source, entry: &Storage) -> Stream<'a> {
    match entry.encoding.packed {
        Some(packed) => Stream::inflated(source, packed),
        None => Stream::plain(source, entry.start, entry.start + entry.bytes),
    }
}

/// Returns the directory to which the end record points: the last record whose comment ends at the file's end, or before
/// a padding of zeros.
fn find_directory(source: &Source) -> Result<Directory, CheckpointError> {
    let length = source.length();
    let tail_start = length.saturating_sub(END_BYTES_MAX + PADDING_BYTES_MAX);
    let tail = source.read(tail_start, length - tail_start)?;
    let padding = tail.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let padding = padding.max(tail.len().saturating_sub(PADDING_BYTES_MAX as usize));
    let found = (0..tail.len().saturating_sub(21)).rev().find_map(|at| {
        let mut cursor = Cursor::new(&tail, at);
        (cursor.u32()? == 0x0605_4b50).then_some(())?;
        let [_disk, _first_disk, _entries_here, entries] = [(); 4].map(|()| cursor.u16().unwrap_or(0));
        let (bytes, start, comment) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
        let end = cursor.at() + usize::from(comment);
        (padding..=tail.len())
            .contains(&end)
            .then_some((at, entries, bytes, start))
    });
    let (at, entries, bytes, start) = found.ok_or_else(missing_directory)?;
    let end = tail_start + at as u64;
    let large = entries == u16::MAX || bytes == u32::MAX || start == u32::MAX;
    let directory = if large {
        find_large_directory(source, end).ok_or_else(|| damaged("its 64-bit directory is broken".into()))?
    } else {
        Directory {
            start: start.into(),
            bytes: bytes.into(),
            entries: entries.into(),
        }
    };
    match directory.start.checked_add(directory.bytes) {
        Some(directory_end) if directory_end <= end => Ok(directory),
        _ => Err(missing_directory()),
    }
}

/// Reads the 64-bit end record, to which the 20 bytes before the end record point.
fn find_large_directory(source: &Source, end: u64) -> Option<Directory> {
    let locator = source.read(end.checked_sub(20)?, 20).ok()?;
    let mut cursor = Cursor::new(&locator, 0);
    (cursor.u32()? == 0x0706_4b50).then_some(())?;
    let _disk = cursor.u32()?;
    let record = source.read(cursor.u64()?, 56).ok()?;
    let mut cursor = Cursor::new(&record, 0);
    (cursor.u32()? == 0x0606_4b50).then_some(())?;
    let _size_to_disks = cursor.take(20)?;
    let _entries_here = cursor.u64()?;
    let (entries, bytes, start) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
    Some(Directory { start, bytes, entries })
}

/// Reads one record of the directory.
fn read_entry<'a>(cursor: &mut Cursor<'a>) -> Option<(Cow<'a, str>, Entry)> {
    (cursor.u32()? == 0x0201_4b50).then_some(())?;
    let _versions = cursor.take(4)?;
    let (flags, method) = (cursor.u16()?, cursor.u16()?);
    let _time_and_checksum = cursor.take(8)?;
    let (mut packed, mut bytes) = (u64::from(cursor.u32()?), u64::from(cursor.u32()?));
    let [name_bytes, extra_bytes, comment_bytes] = [cursor.u16()?, cursor.u16()?, cursor.u16()?];
    let _disk_and_attributes = cursor.take(8)?;
    let mut header = u64::from(cursor.u32()?);
    // A name in another encoding is that of an entry which a zip program added.
    let name = String::from_utf8_lossy(cursor.take(name_bytes.into())?);
    let extra = cursor.take(extra_bytes.into())?;
    let _comment = cursor.take(comment_bytes.into())?;

    // The 64-bit extension holds those of the three fields that do not fit into 32 bits, in this order.
    let mut large = large_fields(extra);
    for field in [&mut bytes, &mut packed, &mut header] {
        if *field == u64::from(u32::MAX) {
            *field = large.as_mut()?.u64()?;
        }
    }
    // A larger offset would overflow when the sizes of the local header are added.
    (header < u64::MAX / 2).then_some(())?;
    let method = match (method, flags & 1) {
        (0, 0) => Method::Stored,
        (8, 0) => Method::Deflated,
        _ => Method::Other,
    };
    let entry = Entry {
        header,
        bytes,
        packed_bytes: packed,
        method,
    };
    Some((name, entry))
}

/// Returns the fields of the 64-bit extension, if the entry has it.
fn large_fields(extra: &[u8]) -> Option<Cursor<'_>> {
    let mut cursor = Cursor::new(extra, 0);
    loop {
        let (kind, bytes) = (cursor.u16()?, cursor.u16()?);
        let field = cursor.take(bytes.into())?;
        if kind == 1 {
            return Some(Cursor::new(field, 0));
        }
    }
}

fn misplaced(name: &str) -> CheckpointError {
    damaged(format!("{} is not where the directory says", excerpt(name)))
}

fn missing_directory() -> CheckpointError {
    damaged("its directory is missing, as if the end were cut off".into())
}

fn damaged(reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        format: CheckpointFormat::TorchZip,
        reason,
    }
}
