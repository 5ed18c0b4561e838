//! What /proc says about the server, and getrusage about ourselves.

use std::fs;
use std::time::Instant;

use crate::json::Json;

/// CPU time of several processes, all their threads, those that have ended included.
#[derive(Clone, Copy, Default)]
struct CpuTime {
    user: f64,
    system: f64,
}

/// Measures the server's CPU time, and our own, over a window that begins with `begin`.
pub struct CpuWindow {
    server_pids: Vec<u32>,
    server: CpuTime,
    own: f64,
    machine: f64,
    begin: Instant,
}

impl CpuWindow {
    pub fn begin(server_pids: &[u32]) -> Result<Self, String> {
        let server = server_time(server_pids)?;
        Ok(Self { server_pids: server_pids.to_vec(), server, own: own_seconds(), machine: machine_seconds(), begin: Instant::now() })
    }

    /// Microseconds of server CPU per message; the share of the window for which the generator itself was busy (1: it was the limit); how
    /// many CPUs other processes used meanwhile (0 on a machine fit to measure on).
    pub fn end(self, messages: u64) -> Result<Json, String> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let own = own_seconds() - self.own;
        let machine = machine_seconds() - self.machine;
        let server = server_time(&self.server_pids)?;
        let (user, system) = (server.user - self.server.user, server.system - self.server.system);
        let per_message = |spent: f64| if self.server_pids.is_empty() { f64::NAN } else { spent * 1e6 / messages as f64 };
        let other_cpus = if self.server_pids.is_empty() { f64::NAN } else { ((machine - user - system - own) / seconds).max(0.0) };
        Ok(Json::default()
            .number("server_user_us", per_message(user))
            .number("server_system_us", per_message(system))
            .number("server_cpu", if self.server_pids.is_empty() { f64::NAN } else { (user + system) / seconds })
            .number("generator_load", own / seconds)
            .number("other_cpus", other_cpus))
    }
}

/// Seconds the server's live threads ran, to the nanosecond (stat counts in ticks of 10 ms): for servers that should not run at all.
pub fn exact_run_seconds(server_pids: &[u32]) -> Result<f64, String> {
    let mut nanoseconds = 0u64;
    for pid in server_pids {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| format!("server {pid}: {error}"))?;
        for task in tasks.flatten() {
            // A thread that ended between the two calls counts for nothing.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            nanoseconds += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// Bytes of anonymous memory (heap, stacks) the processes hold: what the kernel calls Anonymous in smaps_rollup. Code and files don't count.
pub fn anonymous_bytes(server_pids: &[u32]) -> Result<f64, String> {
    let mut kibibytes = 0.0;
    for pid in server_pids {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).ok_or_else(|| format!("{path}: no Anonymous line"))?;
        kibibytes += line.trim().trim_end_matches(" kB").parse::<f64>().map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(kibibytes * 1024.0)
}

fn server_time(server_pids: &[u32]) -> Result<CpuTime, String> {
    let mut total = CpuTime::default();
    for pid in server_pids {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read_to_string(&path).map_err(|error| format!("the server is gone: {path}: {error}"))?;
        // The process name may contain spaces; what follows its closing parenthesis begins with field 3. proc_pid_stat(5).
        let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|word| word.parse::<f64>().ok()).ok_or(format!("{path}: field {field}"));
        total.user += ticks(14)? / ticks_per_second();
        total.system += ticks(15)? / ticks_per_second();
    }
    Ok(total)
}

/// CPU seconds all processes together have used, those of the host's other guests included; NaN where /proc/stat can't be read.
fn machine_seconds() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal. proc_stat(5).
    let busy: Option<f64> = [0, 1, 2, 5, 6, 7].iter().map(|&field| ticks.get(field)).sum();
    busy.map_or(f64::NAN, |busy| busy / ticks_per_second())
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf() takes no pointers.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

fn own_seconds() -> f64 {
    // SAFETY: an all-zero rusage is valid, and the pointer describes it for the duration of the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}
