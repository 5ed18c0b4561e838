//! Where a variable of this process lies, as its dynamic linker knows it.

use std::ffi::{CStr, c_int, c_void};
use std::ops::Range;

/// Its addresses; None where there is no such symbol, or the C library has no dladdr1(3).
pub(super) fn variable(name: &CStr) -> Option<Range<usize>> {
    let start = find(name)?;
    let dladdr1 = find(c"dladdr1")?;
    // SAFETY: dladdr1(3) has this signature; the C library of this process defines it, so the address stays valid.
    let dladdr1 = unsafe {
        std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_void, *mut libc::Dl_info, *mut *mut c_void, c_int) -> c_int>(
            dladdr1,
        )
    };
    let mut symbol: *mut c_void = std::ptr::null_mut();
    // SAFETY: all zeros is a valid Dl_info.
    let mut information: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: both places are writable for what is written there.
    let found = unsafe { dladdr1(start, &raw mut information, &raw mut symbol, RTLD_DL_SYMENT) };
    if found == 0 || symbol.is_null() || information.dli_saddr != start {
        return None;
    }
    // SAFETY: with RTLD_DL_SYMENT the pointer is to the symbol's entry in the library's own table, which stays mapped with the library.
    let size = unsafe { (*symbol.cast::<libc::Elf64_Sym>()).st_size } as usize;
    (size > 0).then(|| start as usize..start as usize + size)
}

fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: `name` ends with a zero byte, and RTLD_DEFAULT needs no handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// dlfcn.h: answer the entry of the symbol table.
const RTLD_DL_SYMENT: c_int = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_of_the_c_library_is_found_with_its_size() {
        let found = variable(c"environ").expect("the C library has it");
        assert_eq!(found.len(), size_of::<*const u8>());
        assert_eq!(found.start, find(c"environ").expect("again") as usize);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(variable(c"no_such_variable_anywhere"), None);
    }
}
