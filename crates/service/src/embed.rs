//! The use case Embed.

use headswap_engine::{Timing, Wanted};
use headswap_heads::HeadName;
use headswap_spec::{HeadInput, Preprocessing};

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
    /// The backbone that computes; empty means that of `head`, or else the first.
    pub backbone: String,
    /// The head whose preprocessing prepares the picture; empty means the backbone's.
    pub head: String,
    /// The version of that head; 0 is the live one.
    pub version: u64,
    /// How the picture is prepared, in place of the head's preprocessing.
    pub preprocessing: Option<Preprocessing>,
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
    /// The digest of the backbone that computed it, in hexadecimal.
    pub backbone_digest: String,
    /// How long each stage took.
    pub timing: Timing,
}

impl AppState {
    /// Runs one picture through a backbone alone.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn embed(&self, call: &CallContext, mut query: EmbedQuery) -> Result<Embedded, ServiceError> {
        call.check_request_id()?;
        let picture = Picture::present(query.picture.take())?;
        let (index, preprocessing) = self.backbone_of(&query)?;
        let backbone = self.model.backbone(index);
        if query.kind == EmbedKind::Features && !backbone.has_features {
            return Err(ServiceError::invalid(
                "kind",
                format!(
                    "the backbone `{}` has no features, because its file lacks VGG16's Linears; ask for the last pooling's map \
                     or its means, or for another backbone",
                    backbone.name
                ),
            ));
        }
        let admitted = self.admit(call).await?;
        let outputs = Outputs {
            heads: None,
            wanted: Some(Wanted {
                backbone: index,
                preprocessing,
                input: query.kind.into(),
            }),
        };
        let mut answer = self.compute(call, admitted, picture, outputs).await?;
        Ok(Embedded {
            features: answer.inputs.pop().unwrap_or_default(),
            backbone_digest: backbone.digest.to_string(),
            timing: answer.timing,
        })
    }

    /// Returns the backbone that computes, and how the picture is prepared.
    fn backbone_of(&self, query: &EmbedQuery) -> Result<(usize, Preprocessing), ServiceError> {
        let backbones = &self.model.backbones;
        let chosen = backbones.find(&query.backbone)?;
        if let Some(preprocessing) = query.preprocessing {
            if !query.head.is_empty() {
                let reason = "a head is given, too; its own preprocessing would not count, so give one of them";
                return Err(ServiceError::invalid("preprocessing_json", reason.to_owned()));
            }
            return Ok((chosen, preprocessing));
        }
        if query.head.is_empty() {
            return Ok((chosen, backbones.get(chosen).preprocessing));
        }
        let version = self
            .registry
            .table()
            .resolve(&HeadName::parse(&query.head)?, query.version)?;
        let index = match query.backbone.is_empty() {
            true => version.info.backbone,
            false => chosen,
        };
        Ok((index, version.info.spec.preprocessing))
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
