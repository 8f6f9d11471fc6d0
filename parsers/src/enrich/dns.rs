//! `reverse_dns`: the name of an address.
//!
//! The host answers from what it knows; it never makes an event wait.

use model::event::Span;
use model::{Event, fields};

use crate::Context;

/// Writes the first name of the address, with its final dot, as rules compare it.
pub(super) fn enrich(argument: Span, event: &Event, cx: &Context<'_>) {
    let Ok(ip) = event.text(argument).parse() else { return };
    if let Some(name) = cx.host.lookup_addr(ip).into_iter().next() {
        let name = if name.ends_with('.') { name } else { name + "." };
        event.set_text(fields::REVERSE_DNS, name);
    }
}
