//! Reads plain pickles: NumPy arrays by name, whose bytes are in the pickle.

use super::checkpoint::Headers;
use super::entry::Storage;
use super::error::CheckpointError;
use super::pickle::{self, Input, UNSUPPORTED};
use super::source::Source;
use super::state_dict::{self, Surroundings};
use super::stream::Stream;

pub(super) fn open(source: &Source, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let mut input = Input::new(Stream::plain(source, 0, source.length()), 0);
    let (objects, result) = pickle::read(&mut input)?;
    match state_dict::headers(&objects, result, key, &NoStorages) {
        // A tensor that pickle.dump wrote is a whole file of torch.save in the pickle.
        Err(CheckpointError::Unreadable { reason, .. }) if reason == UNSUPPORTED => Err(other()),
        Err(CheckpointError::StateDict { .. }) => Err(other()),
        Err(CheckpointError::Global { name }) if name.starts_with("torch.") => Err(other()),
        headers => headers,
    }
}

fn other() -> CheckpointError {
    CheckpointError::Other {
        what: "a pickle, but not torch.save's",
        remedy: "save the weights with torch.save(model.state_dict(), \"model.pth\")",
    }
}

struct NoStorages;

impl Surroundings for NoStorages {
    fn storage(&self, _key: &str) -> Result<Option<Storage>, CheckpointError> {
        Ok(None)
    }
}
