//! Addresses as Python's `socket` module writes them, both ways. Knows nothing of who has them.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::path::{Path, PathBuf};

use proactor_core::engine::Address;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyString, PyTuple};

/// As `socket.accept` and `recvfrom` answer it: a tuple; the path of a Unix socket, bytes where it is an abstract name.
pub fn exact<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        Address::Internet(SocketAddr::V4(address)) => (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any(),
        Address::Internet(SocketAddr::V6(address)) => {
            (address.ip().to_string(), address.port(), address.flowinfo(), address.scope_id()).into_pyobject(py)?.into_any()
        }
        // A client's end has no name.
        Address::Pipe(name) => format!("pipe:{}", name.as_deref().unwrap_or_default()).into_pyobject(py)?.into_any(),
        // As `os.fsdecode`: a name may be any bytes.
        Address::Unix(path) => {
            let name = path.as_deref().map_or(OsStr::new(""), Path::as_os_str);
            match name.as_encoded_bytes() {
                abstract_name @ [0, ..] => PyBytes::new(py, abstract_name).into_any(),
                _ => name.into_pyobject(py)?.into_any(),
            }
        }
    })
}

/// The same for people: an abstract name begins with "@", as ss(8) and systemd write it.
pub fn shown<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    let exact = exact(py, address)?;
    match exact.cast::<PyBytes>() {
        Ok(name) => py.import("os")?.call_method1("fsdecode", (name,))?.call_method1("replace", ("\0", "@", 1)),
        Err(_) => Ok(exact),
    }
}

/// An address that somebody gave, for a socket with the local address `ours` (None: of any family). Nothing is looked up.
///
/// # Errors
/// `TypeError`, `ValueError`: it is no address of the socket's family, with what to write instead.
pub fn parse(address: &Bound<'_, PyAny>, ours: Option<&Address>) -> PyResult<Address> {
    match ours {
        Some(Address::Unix(_)) => path(address).map(|path| Address::Unix(Some(path))),
        ours => {
            let parsed = internet(address)?;
            match (ours, parsed) {
                (Some(Address::Internet(SocketAddr::V4(_))), SocketAddr::V6(_)) => Err(PyValueError::new_err(format!(
                    "the socket is IPv4 and {parsed} is IPv6: make the socket with family=socket.AF_INET6"
                ))),
                // A socket for IPv6 reaches IPv4 by mapped addresses, unless it is told not to; which is the kernel's to say.
                (Some(Address::Internet(SocketAddr::V6(_))), SocketAddr::V4(address)) => {
                    Ok(Address::Internet(SocketAddrV6::new(address.ip().to_ipv6_mapped(), address.port(), 0, 0).into()))
                }
                (_, parsed) => Ok(Address::Internet(parsed)),
            }
        }
    }
}

fn internet(address: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    let wrong = || PyTypeError::new_err(format!("{} is no address: write (host, port), as in (\"127.0.0.1\", 60001)", shortened(address)));
    let parts = address.cast::<PyTuple>().map_err(|_| wrong())?;
    if !(2..=4).contains(&parts.len()) {
        return Err(wrong());
    }
    let host: String = parts.get_item(0)?.extract().map_err(|_| wrong())?;
    let port = parts.get_item(1)?;
    if port.is_instance_of::<PyBool>() {
        return Err(wrong()); // as everywhere: True and False are no numbers
    }
    let port: i64 = port.extract().map_err(|_| wrong())?;
    let port = u16::try_from(port).map_err(|_| PyValueError::new_err(format!("port must be from 0 to 65535, not {port}")))?;
    let number = |index: usize| if index < parts.len() { parts.get_item(index)?.extract::<u32>() } else { Ok(0) };
    let (flow, scope) = (number(2)?, number(3)?);
    let ip = match host.as_str() {
        "<broadcast>" => IpAddr::V4(Ipv4Addr::BROADCAST),
        host => host.parse::<IpAddr>().map_err(|_| {
            PyValueError::new_err(format!(
                "{host:?} is no IP address, and names are not looked up here, since that may block: give one of socket.getaddrinfo(host, port)"
            ))
        })?,
    };
    Ok(match ip {
        IpAddr::V4(_) if parts.len() > 2 => return Err(PyValueError::new_err("an IPv4 address has two parts: (host, port)")),
        IpAddr::V4(ip) => SocketAddrV4::new(ip, port).into(),
        IpAddr::V6(ip) => SocketAddrV6::new(ip, port, flow, scope).into(),
    })
}

fn path(address: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let path = if address.is_instance_of::<PyBytes>() || address.is_instance_of::<PyString>() || address.hasattr("__fspath__")? {
        address.py().import("os")?.call_method1("fsdecode", (address,))?.extract::<PathBuf>()?
    } else {
        return Err(PyTypeError::new_err(format!("{} is no address of a Unix socket: give its path", shortened(address))));
    };
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() {
        return Err(PyValueError::new_err("the path is empty: give that of the socket to reach"));
    }
    if bytes.len() > LONGEST_PATH {
        return Err(PyValueError::new_err(format!(
            "the path has {} bytes, and a Unix socket's at most {LONGEST_PATH} (unix(7))",
            bytes.len()
        )));
    }
    if bytes[0] != 0 && bytes.contains(&0) {
        return Err(PyValueError::new_err("the path contains a NUL: an abstract name begins with one"));
    }
    Ok(path)
}

/// `sun_path` without the NUL at its end.
const LONGEST_PATH: usize = 107;

fn shortened(value: &Bound<'_, PyAny>) -> String {
    value.repr().map_or_else(|_| "this".to_owned(), |text| text.to_string().chars().take(80).collect())
}
