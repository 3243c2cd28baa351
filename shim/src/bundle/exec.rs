//! From the process that a client executes to the guest's.

use serde_json::{Map, Value};

/// Labels of the host, which clients take over from the container's spec. The vmm has the profile; the guest's kernel has
/// neither.
const HOST_LABELS: [&str; 2] = ["apparmorProfile", "selinuxLabel"];

/// Removes what is the host's. What is no process stays as it is: the guest says what is wrong with it.
pub fn to_guest_process(process: Vec<u8>) -> Vec<u8> {
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(&process) else { return process };
    for label in HOST_LABELS {
        fields.remove(label);
    }
    serde_json::to_vec(&fields).unwrap_or(process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_has_no_labels_of_the_host_and_all_else() {
        let process = br#"{"args":["true"],"apparmorProfile":"p","selinuxLabel":"l","rlimits":[{"hard":18446744073709551615}]}"#;
        let guests: Value = serde_json::from_slice(&to_guest_process(process.to_vec())).unwrap();
        let rlimits = serde_json::json!([{"hard": u64::MAX}]);
        assert_eq!(guests, serde_json::json!({"args": ["true"], "rlimits": rlimits}));
        assert_eq!(to_guest_process(b"{".to_vec()), b"{");
    }
}
