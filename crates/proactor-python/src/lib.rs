//! The extension module `proactor._core`: thin classes over `proactor-core`. Python calls in here; nothing in here calls Python back,
//! except to make a connection's public object. `python/proactor/_core.pyi` documents every name.

use pyo3::prelude::*;

mod addresses;
mod appointments;
mod associations;
mod buffers;
mod call;
mod completion;
mod completion_port;
mod connection;
mod errors;
mod file_engine;
mod file_handles;
mod file_memory;
mod files;
mod group;
mod layer;
mod limits;
mod methods;
mod operations;
mod platform;
mod port;
mod process;
mod seats;
mod send_file;
mod simulated;
mod stacks;
mod telling;
mod transfers;
mod worker;

#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use crate::appointments::{Event, Timer, Wait};
    #[pymodule_export]
    use crate::associations::Handle;
    #[pymodule_export]
    use crate::call::Call;
    #[pymodule_export]
    use crate::completion::Completion;
    #[pymodule_export]
    use crate::completion_port::CompletionPort;
    #[pymodule_export]
    use crate::connection::Connection;
    #[pymodule_export]
    use crate::file_engine::{files_finish, files_forked};
    #[pymodule_export]
    use crate::files::{File, HeldFile};
    #[pymodule_export]
    use crate::methods::own_methods;
    #[pymodule_export]
    use crate::operations::Operation;
    #[pymodule_export]
    use crate::port::{Group, Listener, Port};
    #[pymodule_export]
    use crate::process::forked;
    #[pymodule_export]
    use crate::simulated::{Correspondent, Network, Peer, Signal};
    #[pymodule_export]
    use crate::stacks::stacks;
    #[pymodule_export]
    use crate::telling::{next_told, teller_missing, teller_wanted};
    #[pymodule_export]
    use crate::transfers::Transfer;
    #[pymodule_export]
    use crate::worker::{Worker, block, current_worker, unblock};

    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ENGINES", proactor_core::engine::NAMES.to_vec())?;
        module.add("FILE_ENGINES", proactor_core::files::NAMES.to_vec())
    }
}
