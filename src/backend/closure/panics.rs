//! Panics as data: their message and place, and nothing on the terminal for each of the runs that shrinking takes.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

thread_local! {
    /// Set while this thread's panics are caught here.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
    /// Where the last of them was.
    static PLACE: Cell<Option<String>> = const { Cell::new(None) };
}

/// A panic that was caught.
pub(super) struct Panic {
    /// `file:line`, where it is known.
    pub(super) place: Option<String>,
    pub(super) message: String,
}

/// Runs `what`; if it panics, gives the place and the message. Other threads' panics are told as they always were.
pub(super) fn caught<T>(what: impl FnOnce() -> T) -> Result<T, Panic> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(
            move |info| {
                if CATCHES.try_with(Cell::get).unwrap_or(false) { note(info) } else { before(info) }
            },
        ));
    });
    let outer = CATCHES.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(what));
    CATCHES.set(outer);
    result.map_err(|payload| Panic { place: PLACE.take(), message: text(&*payload).to_owned() })
}

fn note(info: &PanicHookInfo<'_>) {
    PLACE.set(info.location().map(|at| format!("{}:{}", at.file(), at.line())));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message")
}
