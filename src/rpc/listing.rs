//! ListHeads: a page at a time.

use std::ops::ControlFlow;

use tonic::Status;

use super::head_info::{Describer, tier};
use super::pb::{HeadInfo, HeadTier, ListHeadsRequest, ListHeadsResponse};
use super::status::invalid;
use crate::heads::HeadName;
use crate::service::{Serving, Version};

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;
/// A page with more labels than this ends early.
const PAGE_LABELS_BYTES_MAX: usize = 16 << 20;

/// Blocking, if labels are asked for: they may have to be read from the store.
pub(super) fn list(serving: &Serving, request: &ListHeadsRequest) -> Result<ListHeadsResponse, Status> {
    let size = match request.page_size as usize {
        0 => PAGE_SIZE_DEFAULT,
        size => size.min(PAGE_SIZE_MAX),
    };
    let after = after(&request.page_token)?;
    let wanted = wanted_tier(request.tier)?;
    let matches = |version: &Version| {
        version.info.name.as_str().starts_with(&request.name_prefix)
            && (wanted.is_none() || version.tier().map(tier) == wanted)
    };
    let page = serving.registry.table().page(after.as_ref(), size, matches);

    let mut filled = Page {
        serving,
        describer: Describer::new(serving),
        include_labels: request.include_labels,
        labels_bytes: 0,
        heads: Vec::new(),
    };
    let cut = page.heads.iter().try_for_each(|version| filled.add(version)).is_break();
    let last = filled.heads.last().filter(|_| cut || page.more);
    Ok(ListHeadsResponse {
        next_page_token: last.map(|head| head.head.clone()).unwrap_or_default(),
        total_size: page.total as u64,
        heads: filled.heads,
    })
}

/// A page's token is the name of the last head before it.
fn after(token: &str) -> Result<Option<HeadName>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let wrong = |_| invalid("page_token", "no page has this token; begin without one".into());
    HeadName::parse(token).map(Some).map_err(wrong)
}

fn wanted_tier(number: i32) -> Result<Option<HeadTier>, Status> {
    let wrong = |_| invalid("tier", format!("{number} is no tier; use HOT, WARM, COLD or none"));
    let tier = HeadTier::try_from(number).map_err(wrong)?;
    Ok(Some(tier).filter(|tier| *tier != HeadTier::Unspecified))
}

struct Page<'a> {
    serving: &'a Serving,
    describer: Describer,
    include_labels: bool,
    labels_bytes: usize,
    heads: Vec<HeadInfo>,
}

impl Page<'_> {
    /// Adds a head, unless its labels are too long for this page.
    fn add(&mut self, version: &Version) -> ControlFlow<()> {
        let labels = if self.include_labels {
            self.labels(version)
        } else {
            Vec::new()
        };
        self.labels_bytes += labels.iter().map(String::len).sum::<usize>();
        if self.labels_bytes > PAGE_LABELS_BYTES_MAX && !self.heads.is_empty() {
            return ControlFlow::Break(());
        }
        self.heads.push(HeadInfo {
            labels,
            ..self.describer.version(version, true)
        });
        ControlFlow::Continue(())
    }

    /// A file that cannot be read now is no reason to tell nothing of the others.
    fn labels(&self, version: &Version) -> Vec<String> {
        let labels = self.serving.registry.labels(version);
        let labels = labels.inspect_err(|error| tracing::warn!(head = %version.info.name, %error, "labels left out"));
        labels.map(|labels| labels.to_vec()).unwrap_or_default()
    }
}
