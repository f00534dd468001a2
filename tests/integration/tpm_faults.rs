//! Each fault of the connection to the TPM, once for each command that the daemon uses, at its start and
//! later. The daemon recovers without a restart, issues tokens meanwhile, and leaves no objects in the TPM.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use crate::common::http::Response;
use crate::common::machine::Machine;
use crate::common::proxy::Fault;
use crate::common::{until, until_true};
use serde_json::json;

const CC_CREATE_PRIMARY: u32 = 0x131;
const CC_NV_INCREMENT: u32 = 0x134;
const CC_STARTUP: u32 = 0x144;
const CC_NV_READ: u32 = 0x14E;
const CC_LOAD: u32 = 0x157;
const CC_QUOTE: u32 = 0x158;
const CC_SIGN: u32 = 0x15D;
const CC_UNSEAL: u32 = 0x15E;
const CC_FLUSH_CONTEXT: u32 = 0x165;
const CC_NV_READ_PUBLIC: u32 = 0x169;
const CC_READ_PUBLIC: u32 = 0x173;
const CC_START_AUTH_SESSION: u32 = 0x176;
const CC_GET_CAPABILITY: u32 = 0x17A;
const CC_PCR_READ: u32 = 0x17E;

/// "a nonce of 18 bytes"
const NONCE: &str = "YSBub25jZSBvZiAxOCBieXRlcw";

/// Longer than the TPM deadline of 1 s.
const LONG: Duration = Duration::from_millis(1300);

const FAULTS: [Fault; 14] = [
    Fault::Answer(0x901), // TPM_RC_CONTEXT_GAP
    Fault::Answer(0x902), // TPM_RC_OBJECT_MEMORY
    Fault::Answer(0x903), // TPM_RC_SESSION_MEMORY
    Fault::Answer(0x904), // TPM_RC_MEMORY
    Fault::Answer(0x921), // TPM_RC_LOCKOUT
    Fault::Answer(0x922), // TPM_RC_RETRY
    Fault::Cut,
    Fault::Delay(LONG),
    Fault::Drop,
    Fault::Flip,
    Fault::Garbage,
    Fault::Size(4),
    Fault::Size(u32::MAX),
    Fault::Swallow,
];

/// Runs `test` for several faults at the same time, since most of the time is waiting. With all at once, a
/// busy machine would exceed the TPM deadline without a fault.
fn for_each_fault(test: impl Fn(Fault) + Sync) {
    let faults = Mutex::new(FAULTS.into_iter());
    let run = || {
        loop {
            let Some(fault) = faults.lock().unwrap().next() else { return };
            test(fault);
        }
    };
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..2 * cores).map(|_| scope.spawn(run)).collect();
        let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        assert_eq!(failed, 0, "of {} faults", FAULTS.len());
    });
}

/// Ends the fault of a swallowed response: the daemon waits for it until the connection is closed.
fn let_go(machine: &Machine, fault: Fault) {
    if fault == Fault::Swallow {
        until_true("the response is swallowed", || machine.proxy.pending_faults() == 0);
        machine.until_tpm_state("busy");
        machine.proxy.release();
    }
}

#[test]
fn a_start_recovers_from_each_fault_of_each_command() {
    let mut machine = Machine::new();
    machine.power_cycle();
    machine.start();
    let commands = machine.proxy.commands();
    let expected =
        [CC_STARTUP, CC_CREATE_PRIMARY, CC_START_AUTH_SESSION, CC_LOAD, CC_UNSEAL, CC_FLUSH_CONTEXT];
    assert!(commands.is_superset(&BTreeSet::from(expected)), "{commands:x?}");
    drop(machine);
    for_each_fault(|fault| {
        let mut machine = Machine::new();
        for command in &commands {
            machine.power_cycle();
            machine.proxy.inject(*command, fault, 1);
            machine.launch();
            let_go(&machine, fault);
            machine.until_healthy();
            assert_eq!(machine.proxy.pending_faults(), 0, "{command:#x} {fault:?} was not met");
            assert!(machine.host.stop().success(), "{command:#x} {fault:?}");
            assert_eq!(machine.loaded_handles(), [0, 0, 0], "{command:#x} {fault:?}");
        }
    });
}

#[test]
fn a_running_daemon_recovers_from_each_fault_of_each_command() {
    for_each_fault(|fault| {
        let mut machine = Machine::new();
        machine.start();
        let rotate = || machine.host.admin().post("/v1/keys/rotate", &json!({ "now": true }));
        let attest = || machine.host.post("/v1/attest", json!({ "nonce": NONCE }));
        let at_work = [
            CC_LOAD,
            CC_SIGN,
            CC_UNSEAL,
            CC_NV_INCREMENT,
            CC_FLUSH_CONTEXT,
            CC_QUOTE,
            CC_PCR_READ,
            CC_CREATE_PRIMARY,
            CC_STARTUP,
            CC_START_AUTH_SESSION,
            CC_NV_READ_PUBLIC,
            CC_NV_READ,
            CC_GET_CAPABILITY,
            CC_READ_PUBLIC,
        ];
        for command in at_work {
            let about = format!("{command:#x} {fault:?}");
            let call: &dyn Fn() -> Response = match command {
                CC_QUOTE | CC_PCR_READ => &attest,
                _ => &rotate,
            };
            // Commands that only a new connection uses.
            if matches!(command, CC_CREATE_PRIMARY | CC_STARTUP | CC_START_AUTH_SESSION) {
                machine.power_cycle();
            }
            machine.proxy.inject(command, fault, 1);
            let answer = call();
            assert!(matches!(answer.status, 200 | 503), "{about}: {}", answer.text());
            assert!(!machine.host.token().is_empty(), "{about}");
            until_true(&format!("{about} is met"), || {
                // Used once per connection, which may have been the previous one.
                machine.proxy.pending_faults() == 0 || {
                    call();
                    false
                }
            });
            let_go(&machine, fault);
            machine.until_healthy();
            until(&format!("{about}: it works again"), || (rotate().status == 200).then_some(()));
            // An idle daemon holds the SRK and one session.
            until_true(&format!("{about}: nothing is left"), || machine.loaded_handles() == [1, 1, 0]);
        }
    });
}
