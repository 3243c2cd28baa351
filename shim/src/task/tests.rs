//! The state machine against a sandbox that does what the test says.

mod fake;

use std::time::Duration;

use containerd_shim_protos::ttrpc::Code;
use tokio::time::timeout;

use super::*;
use crate::{
    sandbox::{NewProcess, ProcessId},
    stdio::StdioPaths,
};
pub use fake::idle;
use fake::*;

#[tokio::test]
async fn a_life_is_told_in_order() {
    let World { tasks, fake, topics } = world(Fake::default());
    let id = ProcessId::init("a");
    assert_eq!(tasks.create(new("a")).await.unwrap(), 4711);
    assert_eq!(tasks.start(&id).await.unwrap(), 4711);
    fake.end(&id, 42);
    assert_eq!(tasks.wait(&id).await.unwrap().exit.status, 42);
    topics.expect(&["create", "start", "exit"]).await;
    assert_eq!(tasks.delete(&id).await.unwrap().ended.exit.status, 42);
    topics.expect(&["create", "start", "exit", "delete"]).await;
    assert!(tasks.close());
}

#[tokio::test(start_paused = true)]
async fn a_death_for_memory_is_told_while_the_container_runs_and_not_too_often() {
    let World { tasks, fake, topics } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    tasks.start(&id).await.unwrap();
    fake.oom_kills.send_replace(1);
    topics.expect(&["create", "start", "oom"]).await;
    for count in 2..1000 {
        fake.oom_kills.send_replace(count);
        tokio::task::yield_now().await;
    }
    topics.expect(&["create", "start", "oom", "oom"]).await;
    fake.end(&id, 0);
    topics.expect(&["create", "start", "oom", "oom", "exit"]).await;
}

#[tokio::test]
async fn a_process_that_ends_at_once_still_starts_first() {
    let World { tasks, fake, topics } = world(Fake::default());
    let id = ProcessId::init("a");
    fake.end(&id, 0);
    tasks.create(new("a")).await.unwrap();
    // Ended before its start: the start is refused, and nothing claims that it started.
    tasks.wait(&id).await.unwrap();
    assert_eq!(code(tasks.start(&id).await), Code::FAILED_PRECONDITION);
    topics.expect(&["create", "exit"]).await;
}

#[tokio::test]
async fn a_taken_id_is_refused_and_a_failed_create_frees_it() {
    let World { tasks, .. } = world(Fake::default());
    tasks.create(new("a")).await.unwrap();
    assert_eq!(code(tasks.create(new("a")).await), Code::ALREADY_EXISTS);
    assert_eq!(code(tasks.create(new("bad")).await), Code::INVALID_ARGUMENT);
    assert_eq!(code(tasks.create(new("bad")).await), Code::INVALID_ARGUMENT);
}

#[tokio::test]
async fn every_call_on_an_unknown_task_is_not_found() {
    let World { tasks, .. } = world(Fake::default());
    let id = ProcessId::init("nobody");
    assert_eq!(code(tasks.start(&id).await), Code::NOT_FOUND);
    assert_eq!(code(tasks.kill(&id, 9, false).await), Code::NOT_FOUND);
    assert_eq!(code(tasks.delete(&id).await), Code::NOT_FOUND);
    assert_eq!(code(tasks.wait(&id).await), Code::NOT_FOUND);
    assert_eq!(code(tasks.state(&id)), Code::NOT_FOUND);
    assert_eq!(code(tasks.pause("nobody").await), Code::NOT_FOUND);
    assert_eq!(code(tasks.resume("nobody").await), Code::NOT_FOUND);
    assert_eq!(code(tasks.pid("nobody")), Code::NOT_FOUND);
    assert_eq!(code(tasks.resize(&id, 1, 1).await), Code::NOT_FOUND);
    assert_eq!(code(tasks.close_stdin(&id).await), Code::NOT_FOUND);
    assert_eq!(
        code(tasks.add_exec(exec("nobody", "e"), NewProcess::default(), StdioPaths::default())),
        Code::NOT_FOUND
    );
}

#[tokio::test]
async fn calls_in_the_wrong_state_are_refused() {
    let World { tasks, fake, .. } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    assert_eq!(code(tasks.pause("a").await), Code::FAILED_PRECONDITION);
    tasks.start(&id).await.unwrap();
    assert_eq!(code(tasks.start(&id).await), Code::FAILED_PRECONDITION);
    assert_eq!(code(tasks.delete(&id).await), Code::FAILED_PRECONDITION);
    assert_eq!(code(tasks.resume("a").await), Code::FAILED_PRECONDITION);
    fake.end(&id, 0);
    tasks.wait(&id).await.unwrap();
    assert_eq!(code(tasks.start(&id).await), Code::FAILED_PRECONDITION);
    assert_eq!(code(tasks.kill(&id, 15, false).await), Code::NOT_FOUND);
    assert_eq!(
        code(tasks.add_exec(exec("a", "e"), NewProcess::default(), StdioPaths::default())),
        Code::FAILED_PRECONDITION
    );
    tasks.delete(&id).await.unwrap();
    assert_eq!(code(tasks.delete(&id).await), Code::NOT_FOUND);
}

#[tokio::test]
async fn an_exec_lives_and_init_ends_last() {
    let World { tasks, fake, topics } = world(Fake::default());
    let (init, id) = (ProcessId::init("a"), exec("a", "e"));
    tasks.create(new("a")).await.unwrap();
    tasks.start(&init).await.unwrap();
    tasks.add_exec(id.clone(), NewProcess::default(), StdioPaths::default()).unwrap();
    assert_eq!(
        code(tasks.add_exec(id.clone(), NewProcess::default(), StdioPaths::default())),
        Code::ALREADY_EXISTS
    );
    assert_eq!(code(tasks.kill(&id, 9, false).await), Code::FAILED_PRECONDITION);
    assert_eq!(tasks.start(&id).await.unwrap(), 4711);
    fake.end(&init, 1);
    // Only now the exec ends: init's end was held back for it.
    fake.end(&id, 2);
    assert_eq!(tasks.wait(&init).await.unwrap().exit.status, 1);
    topics.expect(&["create", "start", "exec-added", "exec-started", "exit", "exit"]).await;
    assert_eq!(tasks.delete(&id).await.unwrap().ended.exit.status, 2);
}

#[tokio::test]
async fn an_exec_that_cannot_start_leaves_the_container_running() {
    let World { tasks, .. } = world(Fake::default());
    let (init, id) = (ProcessId::init("a"), exec("a", "missing"));
    tasks.create(new("a")).await.unwrap();
    tasks.start(&init).await.unwrap();
    tasks.add_exec(id.clone(), NewProcess::default(), StdioPaths::default()).unwrap();
    let error = tasks.start(&id).await.unwrap_err();
    assert!(error.to_string().contains("\"nope\""), "{error}");
    assert_eq!(tasks.state(&id).unwrap().0.status, Status::Stopped);
    assert_eq!(tasks.state(&init).unwrap().0.status, Status::Running);
    tasks.delete(&id).await.unwrap();
}

#[tokio::test]
async fn a_slow_create_holds_up_nobody_else() {
    let World { tasks, fake, .. } = world(Fake { slow: Some("slow"), ..Fake::default() });
    let slow = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.create(new("slow")).await }
    });
    tokio::task::yield_now().await;
    let id = ProcessId::init("quick");
    let quick = async {
        tasks.create(new("quick")).await.unwrap();
        tasks.start(&id).await.unwrap();
        tasks.kill(&id, 9, false).await.unwrap();
        tasks.wait(&id).await.unwrap();
        tasks.delete(&id).await.unwrap();
    };
    timeout(Duration::from_secs(5), quick).await.expect("held up by the slow create");
    // The slow one's id is taken, though nothing else is known of it.
    assert_eq!(code(tasks.create(new("slow")).await), Code::ALREADY_EXISTS);
    assert_eq!(code(tasks.state(&ProcessId::init("slow"))), Code::NOT_FOUND);
    assert!(!tasks.close());
    fake.go.notify_one();
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_delete_in_the_middle_of_a_create_waits_for_it() {
    let World { tasks, fake, topics } = world(Fake { slow: Some("slow"), ..Fake::default() });
    let create = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.create(new("slow")).await }
    });
    tokio::task::yield_now().await;
    let delete = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.delete(&ProcessId::init("slow")).await }
    });
    tokio::task::yield_now().await;
    assert!(!delete.is_finished());
    fake.go.notify_one();
    create.await.unwrap().unwrap();
    assert_eq!(delete.await.unwrap().unwrap().ended.exit.status, 137);
    topics.expect(&["create", "exit", "delete"]).await;
    assert!(tasks.close());
}

#[tokio::test(start_paused = true)]
async fn a_create_that_hangs_holds_up_neither_its_delete_nor_the_end_of_the_shim() {
    let World { tasks, fake, topics } = world(Fake { slow: Some("slow"), ..Fake::default() });
    let create = tokio::spawn({
        let tasks = tasks.clone();
        async move { tasks.create(new("slow")).await }
    });
    tokio::task::yield_now().await;
    assert!(!tasks.close(), "its creator may still want it");
    let id = ProcessId::init("slow");
    // Within the 5 s that containerd waits. Its clean-up goes on only if the task is not found.
    let deleted = timeout(Duration::from_secs(5), tasks.delete(&id)).await.expect("held up by the create");
    assert_eq!(code(deleted), Code::NOT_FOUND);
    assert!(tasks.close());
    assert_eq!(code(tasks.create(new("late")).await), Code::FAILED_PRECONDITION);
    // It ends after all, and nobody knows of it: it is removed.
    fake.go.notify_one();
    assert_eq!(code(create.await.unwrap()), Code::FAILED_PRECONDITION);
    assert_eq!(*fake.deleted.lock().unwrap(), ["slow"]);
    assert!(topics.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_shim_that_ends_takes_no_task() {
    let World { tasks, fake, .. } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    assert!(!tasks.close());
    fake.end(&id, 0);
    tasks.wait(&id).await.unwrap();
    tasks.delete(&id).await.unwrap();
    assert!(tasks.close());
    assert_eq!(code(tasks.create(new("a")).await), Code::FAILED_PRECONDITION);
}

#[tokio::test]
async fn a_start_under_way_counts_as_done() {
    let World { tasks, fake, .. } = world(Fake::default());
    let id = ProcessId::init("slow to start");
    tasks.create(new(&id.container)).await.unwrap();
    let status = || tasks.state(&id).unwrap().0.status;
    assert_eq!(status(), Status::Created);
    let start = tokio::spawn({
        let (tasks, id) = (tasks.clone(), id.clone());
        async move { tasks.start(&id).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(status(), Status::Running);
    fake.go.notify_one();
    start.await.unwrap().unwrap();
    assert_eq!(status(), Status::Running);
}

#[tokio::test]
async fn an_execs_terminal_may_get_its_size_before_the_start() {
    let World { tasks, fake, .. } = world(Fake::default());
    tasks.create(new("a")).await.unwrap();
    tasks.start(&ProcessId::init("a")).await.unwrap();
    let id = ProcessId { container: "a".to_owned(), exec: "e".to_owned() };
    tasks.add_exec(id.clone(), NewProcess::default(), StdioPaths::default()).unwrap();
    tasks.resize(&id, 80, 24).await.unwrap();
    assert!(fake.sizes.lock().unwrap().is_empty());
    tasks.start(&id).await.unwrap();
    assert_eq!(*fake.sizes.lock().unwrap(), [(80, 24)]);
}

#[tokio::test]
async fn a_container_whose_start_fails_has_ended() {
    let World { tasks, topics, .. } = world(Fake { refuse_start: true, ..Fake::default() });
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    assert!(tasks.start(&id).await.unwrap_err().to_string().contains("no such executable"));
    assert_eq!(tasks.state(&id).unwrap().0.status, Status::Stopped);
    assert_eq!(tasks.delete(&id).await.unwrap().ended.exit.status, 255);
    topics.expect(&["create", "exit", "delete"]).await;
}

#[tokio::test]
async fn a_container_that_never_started_can_be_deleted() {
    let World { tasks, topics, .. } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    assert_eq!(tasks.delete(&id).await.unwrap().ended.exit.status, 137);
    topics.expect(&["create", "exit", "delete"]).await;
}

#[tokio::test]
async fn two_deletes_at_once_remove_it_once() {
    let World { tasks, fake, topics } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    tasks.start(&id).await.unwrap();
    fake.end(&id, 0);
    tasks.wait(&id).await.unwrap();
    let (first, second) = tokio::join!(tasks.delete(&id), tasks.delete(&id));
    assert_eq!([first.is_ok(), second.is_ok()].iter().filter(|ok| **ok).count(), 1);
    topics.expect(&["create", "start", "exit", "delete"]).await;
}

#[tokio::test]
async fn pausing_and_resuming_is_told() {
    let World { tasks, topics, .. } = world(Fake::default());
    let id = ProcessId::init("a");
    tasks.create(new("a")).await.unwrap();
    tasks.start(&id).await.unwrap();
    tasks.pause("a").await.unwrap();
    assert_eq!(tasks.state(&id).unwrap().0.status, Status::Paused);
    tasks.resume("a").await.unwrap();
    topics.expect(&["create", "start", "paused", "resumed"]).await;
}
