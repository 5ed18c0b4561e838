//! Which completion ports the calling thread has a seat at, and what it has got and not finished. Gives the seats back when the thread ends, without the
//! interpreter.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use proactor_core::port::{Port as CorePort, Seat};
use pyo3::prelude::*;

use crate::layer::Layer;

/// The calling thread's place at one port.
pub struct Place {
    port: Weak<CorePort<Layer>>,
    pub seat: Seat,
    /// It has to look for signals while it waits.
    pub is_main: bool,
    /// It waits at this moment.
    pub waits: Cell<bool>,
}

#[derive(Default)]
struct Places {
    all: RefCell<Vec<Rc<Place>>>,
    /// Where the thread has got something that counts as running, and its ticket.
    held: RefCell<Option<(Rc<Place>, u64)>>,
    ticket: Cell<u64>,
}

thread_local! {
    static PLACES: Places = Places::default();
}

/// Threads are numbered through the whole process, so that no two tickets are the same.
static NEXT_THREAD: AtomicU64 = AtomicU64::new(1);
const TICKETS_A_THREAD: u64 = 1 << 40;

impl Place {
    fn is_at(&self, port: &Arc<CorePort<Layer>>) -> bool {
        // The port's memory is not used again while a weak reference is left.
        std::ptr::eq(self.port.as_ptr(), Arc::as_ptr(port))
    }

    /// The port, unless it is gone or its process is another one.
    fn port(&self) -> Option<Arc<CorePort<Layer>>> {
        self.port.upgrade().filter(|port| !port.is_forked())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.held.borrow_mut().take();
        for place in self.all.borrow_mut().drain(..) {
            if let Some(port) = place.port() {
                port.leave_seat(&place.seat);
            }
        }
    }
}

/// The calling thread's place at the port, a new one if it has none.
pub fn place_at(py: Python<'_>, port: &Arc<CorePort<Layer>>) -> PyResult<Rc<Place>> {
    PLACES.with(|places| {
        if let Some(place) = places.all.borrow().iter().find(|place| place.is_at(port)) {
            return Ok(place.clone());
        }
        let threading = py.import("threading")?;
        let main = threading.call_method0("main_thread")?.getattr("ident")?;
        let is_main = threading.call_method0("get_ident")?.eq(main)?;
        let place = Rc::new(Place { port: Arc::downgrade(port), seat: port.seat(), is_main, waits: Cell::new(false) });
        let mut all = places.all.borrow_mut();
        all.retain(|place| place.port.strong_count() > 0);
        all.push(place.clone());
        Ok(place)
    })
}

/// Before the thread comes to a port for more: what it has of another one is over. (The port itself finishes what is of its own.)
pub fn finish_before(port: &Arc<CorePort<Layer>>) {
    PLACES.with(|places| {
        let held = places.held.borrow_mut().take();
        if let Some((place, _)) = held
            && !place.is_at(port)
            && let Some(other) = place.port()
        {
            other.release(&place.seat);
        }
    });
}

/// The thread has got something: answers its ticket.
pub fn hold(place: Rc<Place>) -> u64 {
    PLACES.with(|places| {
        if places.ticket.get() == 0 {
            places.ticket.set(NEXT_THREAD.fetch_add(1, Ordering::Relaxed) * TICKETS_A_THREAD);
        }
        let ticket = places.ticket.get() + 1;
        places.ticket.set(ticket);
        *places.held.borrow_mut() = Some((place, ticket));
        ticket
    })
}

/// Whether it is of the calling thread's tickets.
pub fn is_own(ticket: u64) -> bool {
    PLACES.with(|places| places.ticket.get() / TICKETS_A_THREAD == ticket / TICKETS_A_THREAD)
}

/// What the calling thread has counts as running no longer; with a ticket only if it is that one.
pub fn release(ticket: Option<u64>) {
    PLACES.with(|places| {
        if ticket.is_some_and(|ticket| places.held.borrow().as_ref().is_none_or(|held| held.1 != ticket)) {
            return;
        }
        let held = places.held.borrow_mut().take();
        if let Some((place, _)) = held
            && let Some(port) = place.port()
        {
            port.release(&place.seat);
        }
    });
}

/// The thread is about to block: what it has frees its slot until `unblock`.
pub fn block() {
    with_held(|port, seat| port.block_seat(seat));
}

pub fn unblock() {
    with_held(|port, seat| port.unblock_seat(seat));
}

fn with_held(act: impl FnOnce(&CorePort<Layer>, &Seat)) {
    PLACES.with(|places| {
        let held = places.held.borrow();
        if let Some((place, _)) = &*held
            && let Some(port) = place.port()
        {
            act(&port, &place.seat);
        }
    });
}
