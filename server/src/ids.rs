//! Fresh names: of commands and of this run of the server.

use agent_core::id::CommandId;

/// A command id that nobody has used: 128 random bits in hexadecimal.
pub(crate) fn fresh_command_id() -> CommandId {
    let text = format!("{:016x}{:016x}", random(), random());
    text.parse().expect("32 hexadecimal digits are a command id")
}

/// The name of this run of the server: the host and 32 random bits, so that two runs and two servers differ.
pub(crate) fn server_id() -> String {
    let host = gethostname::gethostname();
    format!("{}-{:08x}", host.to_string_lossy(), random() >> 32)
}

fn random() -> u64 {
    getrandom::u64().expect("the operating system has randomness once it has booted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        assert_ne!(fresh_command_id(), fresh_command_id());
        assert_ne!(server_id(), server_id());
    }
}
