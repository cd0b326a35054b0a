//! The use case Embed.

use headswap_engine::{Timing, Wanted};
use headswap_heads::HeadName;
use headswap_spec::HeadInput;

use super::app_state::AppState;
use super::classify::Outputs;
use super::context::CallContext;
use super::error::ServiceError;
use super::picture::Picture;

/// A request for what the backbone computes of a picture.
#[derive(Clone, Debug, Default)]
pub struct EmbedQuery {
    /// The picture.
    pub picture: Option<Picture>,
    /// The head whose preprocessing prepares the picture; empty means the backbone's.
    pub head: String,
    /// The version of that head; 0 is the live one.
    pub version: u64,
    /// What to return.
    pub kind: EmbedKind,
}

/// What the backbone computes of a picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmbedKind {
    /// What enters the last Linear.
    #[default]
    Features,
    /// The last pooling's map, by channel, row and column.
    Pool,
    /// The mean of each of its channels.
    Gap,
}

/// A picture's features.
#[derive(Debug)]
pub struct Embedded {
    /// What was asked for.
    pub features: Vec<f32>,
    /// How long each stage took.
    pub timing: Timing,
}

impl AppState {
    /// Runs one picture through the backbone alone.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn embed(&self, call: &CallContext, query: EmbedQuery) -> Result<Embedded, ServiceError> {
        call.check_request_id()?;
        let picture = Picture::present(query.picture)?;
        let preprocessing = if query.head.is_empty() {
            self.model.preprocessing
        } else {
            let name = HeadName::parse(&query.head)?;
            self.registry
                .table()
                .resolve(&name, query.version)?
                .info
                .spec
                .preprocessing
        };
        let admitted = self.admit(call).await?;
        let outputs = Outputs {
            heads: None,
            wanted: Some(Wanted {
                preprocessing,
                input: query.kind.into(),
            }),
        };
        let mut answer = self.compute(call, admitted, picture, outputs).await?;
        Ok(Embedded {
            features: answer.inputs.pop().unwrap_or_default(),
            timing: answer.timing,
        })
    }
}

impl From<EmbedKind> for HeadInput {
    fn from(kind: EmbedKind) -> Self {
        match kind {
            EmbedKind::Features => Self::Features,
            EmbedKind::Pool => Self::Flatten,
            EmbedKind::Gap => Self::GlobalAverage,
        }
    }
}
