//! The blocks of a GIF before its pixels, as Pillow goes through them.

const EXTENSION: u8 = b'!';
const FRAME: u8 = b',';
const TRAILER: u8 = b';';
const COMMENT: u8 = 254;
const GRAPHIC_CONTROL: u8 = 249;
const APPLICATION: u8 = 255;

/// What is left of the file; every step is `None` at its end.
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

    /// The palette that `flags` announce, or `Some(None)` where they announce none or where it says nothing: one that
    /// makes each index its own level of grey.
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

    /// A sub-block, cut short where the file ends in it, or `None` for the empty one that ends a sequence.
    fn sub_block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte().filter(|length| *length > 0)?;
        self.take(self.rest.len().min(length.into()))
    }

    fn skip_sub_blocks(&mut self) {
        while self.sub_block().is_some() {}
    }

    /// Goes past what introduces the first frame, gives the transparent index. Unknown bytes are skipped one by one.
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

    /// Goes past an extension, gives the transparent index if it sets one. `None` where Pillow refuses it.
    fn extension(&mut self) -> Option<Option<u8>> {
        let mut transparent = None;
        let label = self.byte()?;
        match (label, self.sub_block()) {
            (GRAPHIC_CONTROL, Some(block)) => transparent = graphic_control(block)?,
            // Only in a comment does Pillow take an empty first sub-block for the last one.
            (COMMENT, None) => return Some(None),
            // Pillow reads the next sub-block for its count of loops, even if there is none.
            (APPLICATION, Some(block)) if block.starts_with(b"NETSCAPE2.0") => drop(self.sub_block()),
            _ => {}
        }
        self.skip_sub_blocks();
        Some(transparent)
    }
}

/// The transparent index if it is set. `None` where Pillow misses bytes: flags, two of delay and, if set, the index.
fn graphic_control(block: &[u8]) -> Option<Option<u8>> {
    match block {
        [flags, _, _, ..] if flags & 1 == 0 => Some(None),
        [_, _, _, index, ..] => Some(Some(*index)),
        _ => None,
    }
}
