//! The words for the end of a process: exit codes as shells and kernels give them, signals, memory.

use std::fmt;

use crate::model::Signal;

use super::last_words;

/// Exit codes past this one are 128 plus the number of a signal.
const SIGNALS: i32 = 128;

/// What is known of an end.
pub(super) struct End<'a> {
    /// Exit code, not zero.
    pub(super) code: i32,
    /// The kernel killed for want of memory.
    pub(super) oom_killed: bool,
    /// In bytes.
    pub(super) memory_limit: Option<i64>,
    /// The most that was in use, in bytes.
    pub(super) memory_peak: Option<u64>,
    /// We sent SIGKILL.
    pub(super) killed_by_us: bool,
    /// What is wrong with the program.
    pub(super) fault: Option<&'a str>,
    /// The last lines of its output.
    pub(super) last_words: &'a [String],
}

impl End<'_> {
    fn cause(&self) -> String {
        if self.oom_killed {
            return self.memory();
        }
        if let Some(fault) = self.fault {
            return format!("the program could not be run: {fault}");
        }
        if let Some(library) = self
            .last_words
            .iter()
            .find_map(|line| last_words::missing_library(line))
        {
            return format!("the shared library {library:?} is not in the image");
        }
        match self.code {
            126 => "exit code 126: by a shell's convention, a command was found and could not be executed".into(),
            127 => "exit code 127: by a shell's convention, a command was not found".into(),
            code => match self.signal(code) {
                Some(signal) => signal,
                None => format!("the process ended by itself with exit code {code}"),
            },
        }
    }

    fn signal(&self, code: i32) -> Option<String> {
        let number = code.checked_sub(SIGNALS)?;
        let signal = Signal::of_number(number)?;
        let name = signal.to_string();
        let by = match name.as_str() {
            "SIGKILL" if self.killed_by_us => ", sent by podwright to stop it",
            "SIGKILL" => ", which podwright did not send",
            "SIGSEGV" | "SIGBUS" => ": it used memory that is not its own",
            "SIGILL" => ": an instruction that this processor does not know",
            "SIGABRT" => ": it gave up by itself",
            "SIGSYS" => ": a system call that its seccomp profile forbids",
            _ => "",
        };
        Some(format!("ended by signal {number} ({name}){by}"))
    }

    fn memory(&self) -> String {
        let limit = match self.memory_limit.map(u64::try_from) {
            Some(Ok(limit)) if limit > 0 => format!("its limit is {}", Bytes(limit)),
            _ => "it has no limit of its own: the pod's or the node's memory ran out".to_owned(),
        };
        let peak = match self.memory_peak {
            Some(peak) => format!(", the most it had in use was {}", Bytes(peak)),
            None => String::new(),
        };
        format!("the kernel killed it for want of memory: {limit}{peak}")
    }
}

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        if !self.last_words.is_empty() {
            write!(f, "; its last words: {}", self.last_words.join(" | "))?;
        }
        Ok(())
    }
}

/// Bytes for people: in MiB with one digit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_mul(10) >> 20;
        write!(f, "{}.{} MiB", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(code: i32, edit: impl FnOnce(&mut End<'a>)) -> String {
        let mut end = End {
            code,
            oom_killed: false,
            memory_limit: None,
            memory_peak: None,
            killed_by_us: false,
            fault: None,
            last_words: &[],
        };
        edit(&mut end);
        end.to_string()
    }

    #[test]
    fn memory_is_told_with_limit_and_peak() {
        let text = said(137, |end| {
            end.oom_killed = true;
            end.memory_limit = Some(16 << 20);
            end.memory_peak = Some((16 << 20) - 4096);
        });
        assert_eq!(
            text,
            "the kernel killed it for want of memory: its limit is 16.0 MiB, the most it had in use was 15.9 MiB"
        );
        assert!(said(137, |end| end.oom_killed = true).contains("no limit of its own"));
    }

    #[test]
    fn signals_have_names_and_a_sender_where_it_is_known() {
        assert_eq!(said(143, |_| {}), "ended by signal 15 (SIGTERM)");
        assert!(said(137, |_| {}).ends_with("which podwright did not send"));
        assert!(said(137, |end| end.killed_by_us = true).ends_with("to stop it"));
        assert!(said(159, |_| {}).contains("seccomp"));
        assert_eq!(
            said(255, |_| {}),
            "the process ended by itself with exit code 255"
        );
    }

    #[test]
    fn shells_faults_and_libraries_are_told() {
        assert!(said(127, |_| {}).contains("was not found"));
        let words = [
            "app: error while loading shared libraries: libx.so.1: cannot open shared object file"
                .to_owned(),
        ];
        let text = said(127, |end| end.last_words = &words);
        assert!(text.starts_with(
            "the shared library \"libx.so.1\" is not in the image; its last words: app:"
        ));
        assert!(
            said(1, |end| end.fault = Some("x is empty"))
                .starts_with("the program could not be run: x is empty")
        );
    }
}
