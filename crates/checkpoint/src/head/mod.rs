//! Reads a fine-tuned VGG16, whatever its tensors are called, as a head in normal form.
//!
//! Names, shapes and modules decide everything before any tensor is read: `part` groups tensors by module, `network` finds
//! the convolutions, `found` and `chain` the head's own modules, `plan` sorts out the rest, `layers` says where the head
//! stands and what lies between, from its spec, from `modules` or from a known `layout`, and
//! `unread` which modules none of them accounts for. Then `values` reads, `fold` removes
//! batch norms, `backbone` reads what is VGG16's own, and `normal` names the result.

mod backbone;
mod budget;
mod chain;
mod composition;
mod error;
mod fold;
mod found;
mod graph;
mod head_input;
mod inspect;
mod labels;
mod layers;
mod layout;
mod modules;
pub(crate) mod natural;
mod network;
mod normal;
mod part;
mod plan;
mod policy;
mod stored;
mod unread;
mod values;
mod write;

pub use backbone::read_backbone;
pub use composition::compose_preprocessing;
pub use error::HeadFileError;
pub use inspect::{InspectedModule, Inspection, Missing, inspect_head, inspect_head_with};
pub use layers::Finding;
pub use normal::{HeadOptions, HeadReport, NormalHead, SPEC, read_head, read_head_for, stored_spec};
pub use policy::{HeadPolicy, IsDropped};
pub use write::write_head;
