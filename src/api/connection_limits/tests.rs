use super::reading::MAX_READING;
use super::*;

#[tokio::test]
async fn oldest_idle_connection_is_evicted() {
    let limits = ConnectionLimits::new(4, 2);
    let first = limits.acquire(1).unwrap();
    first.set_busy(true);
    let second = limits.acquire(1).unwrap();
    let third = limits.acquire(1).unwrap();
    second.evicted().await;
    assert_eq!(limits.len(), 2);
    third.set_busy(true);
    assert!(limits.acquire(1).is_none(), "both are busy");
    let _other = limits.acquire(2).unwrap();
    drop(first);
    drop(second);
    assert_eq!(limits.len(), 2);
    drop(third);
    assert_eq!(limits.len(), 1);
}

#[tokio::test]
async fn the_longest_receiving_connection_is_evicted() {
    let limits = ConnectionLimits::new(1000, 1000);
    let connections: Vec<_> = (0..=MAX_RECEIVING).map(|_| limits.acquire(1).unwrap()).collect();
    let mut receiving: Vec<_> = connections[1..].iter().map(ConnectionPermit::begin_receiving).collect();
    let other = limits.acquire(2).unwrap();
    let _ = other.begin_receiving();
    receiving.push(connections[0].begin_receiving());
    connections[1].receiving_evicted().await;
    receiving.remove(0);
    receiving.remove(0);
    receiving.push(connections[1].begin_receiving());
    receiving.push(connections[2].begin_receiving());
    connections[3].receiving_evicted().await;
    drop(receiving);
    assert!(limits.table.lock().unwrap().receiving.is_empty());
}

#[tokio::test]
async fn nothing_is_read_while_too_many_evicted_connections_have_not_ended() {
    let limits = ConnectionLimits::new(2000, 2000);
    let connections: Vec<_> = (0..MAX_RECEIVING + 1000).map(|_| limits.acquire(1).unwrap()).collect();
    let mut reading = connections.iter();
    let mut receiving: Vec<_> =
        reading.by_ref().take(MAX_RECEIVING).map(|one| one.begin_receiving()).collect();
    // Each further one evicts one, which does not end.
    let mut evicting = 0;
    let waiting = loop {
        let next = reading.next().unwrap();
        match next.wait_before_reading() {
            Some(wait) => break wait,
            None => receiving.push(next.begin_receiving()),
        }
        evicting += 1;
    };
    assert_eq!(evicting, MAX_READING);
    assert!(limits.acquire(2).unwrap().wait_before_reading().is_none(), "of another uid");
    let waiting = tokio::spawn(waiting);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    drop(receiving.remove(0));
    waiting.await.unwrap();
    let part = reading.next().unwrap().begin_reading();
    assert!(reading.next().unwrap().wait_before_reading().is_some(), "another one is being read");
    drop(part);
    assert!(reading.next().unwrap().wait_before_reading().is_none());
    drop(receiving);
    assert!(limits.table.lock().unwrap().receiving.is_empty());
}

#[test]
fn calls_of_agents_are_limited_per_uid() {
    let limits = ConnectionLimits::new(4, 2);
    let (a, b) = (limits.acquire(1).unwrap(), limits.acquire(1).unwrap());
    let call = |connection: &ConnectionPermit| connection.acquire_call(CallClass::Agent);
    let mut calls: Vec<_> = (0..4).map(|index| call(if index % 2 == 0 { &a } else { &b })).collect();
    assert!(calls.iter().all(Option::is_some) && call(&a).is_none() && call(&b).is_none());
    assert!(call(&limits.acquire(2).unwrap()).is_some());
    calls.pop();
    assert!(call(&b).is_some());
}

#[test]
fn each_class_of_calls_has_a_limit_of_its_own() {
    let limits = ConnectionLimits::new(4, 2);
    let a = limits.acquire(1).unwrap();
    let calls = |class| -> Vec<_> { std::iter::from_fn(|| a.acquire_call(class)).take(1000).collect() };
    let (public, unidentified) = (calls(CallClass::Public), calls(CallClass::Unidentified));
    assert_eq!((public.len(), unidentified.len()), (MAX_OPEN_CALLS, MAX_OPEN_CALLS));
    for call in &unidentified[..4] {
        assert_eq!((call.move_to(CallClass::Agent), call.move_to(CallClass::Agent)), (Some(()), Some(())));
    }
    assert!(unidentified[4].move_to(CallClass::Agent).is_none(), "two agents' calls for each connection");
    assert!(unidentified[4].move_to(CallClass::Public).is_none());
    assert_eq!(calls(CallClass::Unidentified).len(), 4);
    drop((public, unidentified));
    assert!(limits.table.lock().unwrap().calls.is_empty());
}

#[test]
fn evicted_connections_that_have_not_ended_are_limited() {
    let limits = ConnectionLimits::for_unidentified(2);
    let mut open: Vec<_> = (0..2 + MAX_CLOSING).map(|_| limits.acquire(1).unwrap()).collect();
    assert!(limits.acquire(1).is_none(), "all but two were evicted and are still open");
    drop(open.remove(0));
    open.push(limits.acquire(1).unwrap());
    assert!(limits.acquire(1).is_none());
    drop(open);
    assert!(limits.is_empty() && limits.table.lock().unwrap().closing.is_empty());
}

#[tokio::test]
async fn uid_with_most_connections_is_evicted_first() {
    let limits = ConnectionLimits::new(3, 3);
    let a = limits.acquire(1).unwrap();
    let _b = limits.acquire(1).unwrap();
    let _c = limits.acquire(2).unwrap();
    let _d = limits.acquire(3).unwrap();
    a.evicted().await;
    assert_eq!(limits.len(), 3);
}
