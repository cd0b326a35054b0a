//! Reads the blocks of a GIF before its pixels, as Pillow does.

const EXTENSION: u8 = b'!';
const FRAME: u8 = b',';
const TRAILER: u8 = b';';
const COMMENT: u8 = 254;
const GRAPHIC_CONTROL: u8 = 249;
const APPLICATION: u8 = 255;

/// The rest of the file. Every method returns `None` at its end.
pub(super) struct Blocks<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let bytes = self.take(2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?).into())
    }

    /// Returns the palette that `flags` announce. `Some(None)` if they announce none, or if it maps each index to the same
    /// level of grey.
    pub(super) fn palette(&mut self, flags: u8) -> Option<Option<&'a [u8]>> {
        if flags & 0x80 == 0 {
            return Some(None);
        }
        let palette = self.take(6 << (flags & 7))?;
        let (entries, _) = palette.as_chunks::<3>();
        let is_needed = entries
            .iter()
            .zip(0..=u8::MAX)
            .any(|(entry, index)| *entry != [index; 3]);
        Some(is_needed.then_some(palette))
    }

    /// Returns a sub-block, or as much of it as the file has; `None` for the empty one that ends a sequence.
    fn sub_block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|length| *length > 0)?;
        self.take(self.rest.len().min(length.into()))
    }

    fn skip_sub_blocks(&mut self) {
        while self.sub_block().is_some() {}
    }

    /// Skips to the first frame and returns the transparent index. Unknown bytes are skipped one by one.
    pub(super) fn extensions(&mut self) -> Option<Option<u8>> {
        let mut transparent = None;
        loop {
            match self.byte()? {
                FRAME => return Some(transparent),
                TRAILER => return None,
                EXTENSION => transparent = self.extension()?.or(transparent),
                _ => {}
            }
        }
    }

    /// Skips an extension and returns the transparent index if it sets one. `None` if Pillow refuses the extension.
    fn extension(&mut self) -> Option<Option<u8>> {
        let mut transparent = None;
        let label = self.byte()?;
        match (label, self.sub_block()) {
            (GRAPHIC_CONTROL, Some(block)) => transparent = graphic_control(block)?,
            // Like Pillow: an empty first sub-block is the last one only in a comment.
            (COMMENT, None) => return Some(None),
            // Like Pillow: the next sub-block, with the count of loops, is read even if the sequence has ended.
            (APPLICATION, Some(block)) if block.starts_with(b"NETSCAPE2.0") => drop(self.sub_block()),
            _ => {}
        }
        self.skip_sub_blocks();
        Some(transparent)
    }
}

/// Returns the transparent index if it is set. `None` if a byte is missing that Pillow reads: the flags, two of the delay
/// and, if set, the index.
fn graphic_control(block: &[u8]) -> Option<Option<u8>> {
    match block {
        [flags, _, _, ..] if flags & 1 == 0 => Some(None),
        [_, _, _, index, ..] => Some(Some(*index)),
        _ => None,
    }
}
