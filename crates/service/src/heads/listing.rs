//! Lists heads in pages.

use std::ops::ControlFlow;
use std::sync::Arc;

use headswap_heads::{HeadError, HeadName, HeadRegistry, HeadVersion, Tier};
use headswap_model::PlacedHead;

use super::HeadAdmin;
use super::description::{Describer, HeadDescription};
use crate::ServiceError;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1000;
/// A page whose labels have more bytes than this ends early.
const PAGE_LABELS_BYTES_MAX: usize = 16 << 20;

/// A query for a page of heads.
#[derive(Clone, Debug, Default)]
pub struct HeadQuery {
    /// True to include labels, which may have to be read from the store.
    pub include_labels: bool,
    /// Maximum number of heads; 0 is the default.
    pub page_size: usize,
    /// [`HeadPage::next_page_token`] of the page before; empty for the first page.
    pub page_token: String,
    /// Only heads whose names begin with this.
    pub name_prefix: String,
    /// Only heads whose live version is in this tier.
    pub tier: Option<Tier>,
}

/// A page of heads, by name.
#[derive(Clone, Debug)]
pub struct HeadPage {
    /// Their live versions.
    pub heads: Vec<HeadDescription>,
    /// The token of the next page; empty if this is the last.
    pub next_page_token: String,
    /// The number of matching heads on all pages.
    pub total: usize,
}

impl HeadAdmin {
    /// Lists a page of the live versions.
    ///
    /// # Errors
    /// [`ServiceError::Invalid`] if the token is invalid.
    pub async fn list(&self, query: HeadQuery) -> Result<HeadPage, ServiceError> {
        let after = after(&query.page_token)?;
        let (registry, describer) = (Arc::clone(&self.registry), Arc::clone(&self.describer));
        self.readers
            .run(move || list(&registry, &describer, after.as_ref(), &query))
            .await
    }
}

/// Parses a page's token, which is the name of the last head before it.
fn after(token: &str) -> Result<Option<HeadName>, ServiceError> {
    if token.is_empty() {
        return Ok(None);
    }
    let name = HeadName::parse(token)
        .map_err(|_| ServiceError::invalid("page_token", "the token is invalid; start without one".into()))?;
    Ok(Some(name))
}

/// Reads a page; blocking if labels are included.
fn list(
    registry: &HeadRegistry<PlacedHead>,
    describer: &Describer,
    after: Option<&HeadName>,
    query: &HeadQuery,
) -> HeadPage {
    let size = match query.page_size {
        0 => PAGE_SIZE_DEFAULT,
        size => size.min(PAGE_SIZE_MAX),
    };
    let page = registry.table().page(after, size, |version| {
        version.info.name.as_str().starts_with(&query.name_prefix)
            && (query.tier.is_none() || version.tier() == query.tier)
    });
    let mut filled = Page {
        registry,
        describer,
        include_labels: query.include_labels,
        labels_bytes: 0,
        heads: Vec::new(),
    };
    let cut = page.heads.iter().try_for_each(|version| filled.add(version)).is_break();
    let last = filled.heads.last().filter(|_| cut || page.more);
    HeadPage {
        next_page_token: last.map(|head| head.info.name.to_string()).unwrap_or_default(),
        total: page.total,
        heads: filled.heads,
    }
}

struct Page<'a> {
    registry: &'a HeadRegistry<PlacedHead>,
    describer: &'a Describer,
    include_labels: bool,
    labels_bytes: usize,
    heads: Vec<HeadDescription>,
}

impl Page<'_> {
    /// Adds a head, unless its labels are too long for this page.
    fn add(&mut self, listed: &Arc<HeadVersion<PlacedHead>>) -> ControlFlow<()> {
        let head = self.describe(listed);
        self.labels_bytes += head.labels.iter().map(String::len).sum::<usize>();
        if self.labels_bytes > PAGE_LABELS_BYTES_MAX && !self.heads.is_empty() {
            return ControlFlow::Break(());
        }
        self.heads.push(head);
        ControlFlow::Continue(())
    }

    /// Describes the live version, which is another than the listed one if a swap has retired that since.
    fn describe(&self, listed: &Arc<HeadVersion<PlacedHead>>) -> HeadDescription {
        let mut version = Arc::clone(listed);
        loop {
            let labels = self.labels(&version);
            let head = self.describer.describe(&version, true);
            if let (Some(labels), Some(_)) = (labels, head.tier) {
                return HeadDescription { labels, ..head };
            }
            match self.registry.table().resolve(&version.info.name, 0) {
                Ok(live) => version = live,
                // Heads never leave the table.
                Err(_) => return head,
            }
        }
    }

    /// Returns the labels, empty if they are not requested or cannot be read, so that one unreadable file does not fail the
    /// page; none if the version is retired.
    fn labels(&self, version: &HeadVersion<PlacedHead>) -> Option<Arc<[String]>> {
        if !self.include_labels {
            return Some(Arc::default());
        }
        match self.registry.labels(version) {
            Ok(labels) => Some(labels),
            Err(HeadError::Retired { .. }) => None,
            Err(error) => {
                tracing::warn!(head = %version.info.name, %error, "labels could not be read and were left out");
                Some(Arc::default())
            }
        }
    }
}
