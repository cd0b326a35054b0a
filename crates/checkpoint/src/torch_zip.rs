//! Reads torch.save's format since PyTorch 1.6: a zip archive of one pickle, `NAME/data.pkl`, and the bytes of each
//! storage, `NAME/data/KEY`. TorchScript's archives have the code of their classes, too, in `NAME/code/`.

use std::io::Read as _;

use super::checkpoint::Headers;
use super::entry::Storage;
use super::error::CheckpointError;
use super::foreign;
use super::format::CheckpointFormat;
use super::module_kind::class_code;
use super::pickle::{self, Input};
use super::source::Source;
use super::state_dict::{self, Surroundings};
use super::stream::Packed;
use super::zip::{Archive, content};

/// The pickle of what was saved.
const PICKLE: &str = "data.pkl";
/// Limit of the bytes that a deflated pickle inflates to. Others are bounded by the file's length.
const INFLATED_PICKLE_BYTES_MAX: u64 = 64 << 20;
/// Limit of the bytes of a TorchScript source file that are read.
const CODE_BYTES_MAX: u64 = 64 * 1024;

pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let archive = Archive::open(source)?;
    let pickles = archive.names().filter_map(|name| name.strip_suffix(PICKLE));
    let folders = pickles.filter(|folder| folder.is_empty() || folder.ends_with('/'));
    let folder = folders
        .min_by_key(|folder| (folder.starts_with("__MACOSX"), folder.len()))
        .ok_or_else(|| foreign::archive(archive.names()))?;
    check_byte_order(&archive, source, folder)?;
    let pickle = archive.locate(source, &format!("{folder}{PICKLE}"))?;
    let pickle = pickle.ok_or_else(|| foreign::archive(archive.names()))?;
    if pickle.encoding.packed.is_some() && pickle.bytes > INFLATED_PICKLE_BYTES_MAX {
        return Err(CheckpointError::StateDict {
            reason: format!("a compressed pickle of {} bytes", pickle.bytes),
        });
    }
    let mut input = Input::new(content(source, &pickle), pickle.start);
    let (objects, result) = pickle::read(&mut input)?;
    let folder = Folder {
        archive: &archive,
        source,
        name: folder,
        packed: pickle.encoding.packed,
    };
    state_dict::headers(&objects, result, key, &folder)
}

/// The folder of the pickle in its archive.
struct Folder<'a> {
    archive: &'a Archive,
    source: &'a Source,
    /// Empty, or with a slash at the end.
    name: &'a str,
    packed: Option<Packed>,
}

impl Surroundings for Folder<'_> {
    fn storage(&self, key: &str) -> Result<Option<Storage>, CheckpointError> {
        self.archive.locate(self.source, &format!("{}data/{key}", self.name))
    }

    fn packed(&self) -> Option<Packed> {
        self.packed
    }

    fn code(&self, class: &str) -> Option<String> {
        let (module, class) = class.rsplit_once('.')?;
        let path = format!("{}code/{}.py", self.name, module.replace('.', "/"));
        let file = self.archive.locate(self.source, &path).ok()??;
        let mut code = String::new();
        content(self.source, &file)
            .take(CODE_BYTES_MAX)
            .read_to_string(&mut code)
            .ok()?;
        class_code(&code, class)
    }
}

/// Checks the byte order, which PyTorch 2.1 and later write.
fn check_byte_order(archive: &Archive, source: &Source, folder: &str) -> Result<(), CheckpointError> {
    let Some(entry) = archive.locate(source, &format!("{folder}byteorder"))? else {
        return Ok(());
    };
    let mut order = Vec::new();
    content(source, &entry).take(16).read_to_end(&mut order)?;
    match &order[..] {
        b"little" => Ok(()),
        _ => Err(CheckpointError::Damaged {
            format: CheckpointFormat::TorchZip,
            reason: "its numbers are not little-endian".into(),
        }),
    }
}
