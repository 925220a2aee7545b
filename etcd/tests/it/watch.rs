//! Following documents through what happens to etcd.

use std::time::Duration;

use etcd::{
    Credentials, Event, Failure, Key, Options, Revision, Selection, TextError, Timing, Watch,
};
use etcd_client::{Client, ConnectOptions};

use crate::real::{DEADLINE, Etcd, Outsider, Private};
use crate::store::enable_auth;

/// Nobody else's.
pub(crate) fn fresh_key() -> Key {
    format!("t{:016x}", getrandom::u64().unwrap()).parse().unwrap()
}

/// Delays that do not make tests long. What is read again and what is silent stays as it is, unless a test says so.
fn options(address: &str) -> Options {
    let mut options = Options::new(address.parse().unwrap());
    options.timing = Timing {
        backoff_first: Duration::from_millis(50),
        backoff_max: Duration::from_millis(500),
        ..Timing::default()
    };
    options
}

fn watch_keys(address: &str, keys: &[&Key]) -> Watch {
    let keys = keys.iter().map(|&key| key.clone()).collect();
    Watch::start(options(address), Selection::Keys(keys))
}

async fn next(watch: &mut Watch) -> Event {
    tokio::time::timeout(DEADLINE, watch.next()).await.expect("the watch is silent").unwrap()
}

/// The next thing told of documents.
async fn next_news(watch: &mut Watch) -> Event {
    loop {
        match next(watch).await {
            Event::Synced | Event::Unreachable(_) | Event::Back => {}
            news => return news,
        }
    }
}

async fn until(watch: &mut Watch, wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = next(watch).await;
        if wanted(&event) {
            return event;
        }
    }
}

fn put(outsider: &Outsider, key: &Key, text: &str) -> Revision {
    outsider.put(&key.path(), text)
}

fn delete(outsider: &Outsider, key: &Key) -> Revision {
    outsider.delete(&key.path())
}

/// A client with a user, who may do more than write.
async fn root(etcd: &Private) -> Client {
    let options = ConnectOptions::new().with_user("root", "root");
    Client::connect([etcd.address()], Some(options)).await.unwrap()
}

fn changed(key: &Key, revision: Revision, text: &str) -> Event {
    Event::Changed { key: key.clone(), revision, text: Ok(text.to_owned()) }
}

fn deleted(key: &Key, revision: Revision) -> Event {
    Event::Deleted { key: key.clone(), revision }
}

#[tokio::test]
async fn exact_keys_are_followed_and_no_others() {
    let Some(etcd) = Etcd::any("exact_keys_are_followed_and_no_others") else {
        return;
    };
    let writer = etcd.outsider();
    let (one, two) = (fresh_key(), fresh_key());
    let longer: Key = format!("{one}1").parse().unwrap();
    let first = put(&writer, &one, "1");
    let mut watch = watch_keys(&etcd.address(), &[&one, &two]);
    assert_eq!(next(&mut watch).await, changed(&one, first, "1"));
    assert_eq!(next(&mut watch).await, Event::Synced);

    put(&writer, &longer, "not asked for");
    let second = put(&writer, &two, "2");
    assert_eq!(next(&mut watch).await, changed(&two, second, "2"));
    let gone = delete(&writer, &one);
    assert_eq!(next(&mut watch).await, deleted(&one, gone));
    writer.delete(&longer.path());
}

#[tokio::test]
async fn the_folder_is_read_in_pages_and_followed() {
    let Some(etcd) = Private::start("the_folder_is_read_in_pages_and_followed") else {
        return;
    };
    let writer = etcd.outsider();
    let mut expected = Vec::new();
    for _ in 0..40 {
        let key = fresh_key();
        let revision = put(&writer, &key, "{}");
        expected.push(changed(&key, revision, "{}"));
    }
    writer.put("/monitor/config/no/bodys", "{}");
    writer.put("/monitor/config0", "{}");
    let mut watch = Watch::start(options(&etcd.address()), Selection::Folder);
    let mut told = Vec::new();
    loop {
        match next(&mut watch).await {
            Event::Synced => break,
            event => told.push(event),
        }
    }
    let by_text = |event: &Event| format!("{event:?}");
    expected.sort_by_key(by_text);
    told.sort_by_key(by_text);
    assert_eq!(told, expected);

    writer.put("/monitor/config/no/bodys", "again");
    let revision = put(&writer, &Key::Default, "{}");
    assert_eq!(next(&mut watch).await, changed(&Key::Default, revision, "{}"));
}

#[tokio::test]
async fn what_is_no_document_is_told_with_the_reason() {
    let Some(etcd) = Etcd::any("what_is_no_document_is_told_with_the_reason") else {
        return;
    };
    let writer = etcd.outsider();
    let key = fresh_key();
    let mut watch = watch_keys(&etcd.address(), &[&key]);
    assert_eq!(next(&mut watch).await, Event::Synced);
    let values: [(Vec<u8>, TextError); 2] = [
        (b"{\xff".to_vec(), TextError::NotUtf8 { at: 1 }),
        (vec![b'x'; 1_000_000], TextError::TooLarge { bytes: 1_000_000 }),
    ];
    for (value, reason) in values {
        writer.put(&key.path(), value);
        let told = next(&mut watch).await;
        assert!(
            matches!(&told, Event::Changed { text: Err(told), .. } if *told == reason),
            "{told:?}"
        );
    }
    writer.delete(&key.path());
}

#[tokio::test]
async fn an_absent_etcd_is_waited_for() {
    let Some(mut etcd) = Private::prepare("an_absent_etcd_is_waited_for") else {
        return;
    };
    let key = fresh_key();
    let mut watch = watch_keys(&etcd.address(), &[&key]);
    let told = next(&mut watch).await;
    assert!(matches!(told, Event::Unreachable(Failure::Unreachable { .. })), "{told:?}");
    etcd.restart();
    let revision = put(&etcd.outsider(), &key, "1");
    assert_eq!(next_news(&mut watch).await, changed(&key, revision, "1"));
}

#[tokio::test]
async fn nothing_is_missed_over_kills() {
    let Some(mut etcd) = Private::start("nothing_is_missed_over_kills") else {
        return;
    };
    let (one, two) = (fresh_key(), fresh_key());
    let nobody = Private::prepare("").unwrap();
    let both = format!("{},{}", nobody.address(), etcd.address());
    let mut watch = watch_keys(&both, &[&one, &two]);
    until(&mut watch, |event| *event == Event::Synced).await;
    for round in 0..3 {
        let text = round.to_string();
        let before = put(&etcd.outsider(), &one, &text);
        etcd.kill();
        etcd.restart();
        let after = put(&etcd.outsider(), &two, &text);
        // In which order depends on whether the first was told before the kill.
        let mut told = [next_news(&mut watch).await, next_news(&mut watch).await];
        let mut expected = [changed(&one, before, &text), changed(&two, after, &text)];
        told.sort_by_key(|event| format!("{event:?}"));
        expected.sort_by_key(|event| format!("{event:?}"));
        assert_eq!(told, expected);
    }
    // The stream is a live one again, not only what is read now and then.
    let last = put(&etcd.outsider(), &one, "last");
    assert_eq!(next_news(&mut watch).await, changed(&one, last, "last"));
}

#[tokio::test]
async fn an_outage_is_told_with_its_end() {
    let Some(mut etcd) = Private::start("an_outage_is_told_with_its_end") else {
        return;
    };
    let key = fresh_key();
    let mut watch = watch_keys(&etcd.address(), &[&key]);
    until(&mut watch, |event| *event == Event::Synced).await;
    etcd.kill();
    until(&mut watch, |event| matches!(event, Event::Unreachable(_))).await;
    etcd.restart();
    until(&mut watch, |event| *event == Event::Back).await;
}

#[tokio::test]
async fn a_compaction_in_a_gap_loses_no_state() {
    let Some(mut etcd) = Private::start("a_compaction_in_a_gap_loses_no_state") else {
        return;
    };
    let (one, two) = (fresh_key(), fresh_key());
    let mut watch = watch_keys(&etcd.address(), &[&one, &two]);
    put(&etcd.outsider(), &one, "old");
    put(&etcd.outsider(), &two, "old");
    next_news(&mut watch).await;
    next_news(&mut watch).await;

    // While the watch is away: changes, a deletion, and a history that does not reach back to where it was.
    etcd.kill();
    until(&mut watch, |event| matches!(event, Event::Unreachable(_))).await;
    let mut quiet = watch;
    etcd.restart();
    let writer = etcd.outsider();
    for round in 0..20 {
        put(&writer, &one, &round.to_string());
    }
    delete(&writer, &two);
    let last = put(&writer, &one, "new");
    writer.compact(last);
    let mut two_is_gone = false;
    let mut one_is_new = false;
    while !(two_is_gone && one_is_new) {
        match next_news(&mut quiet).await {
            Event::Deleted { key, .. } if key == two => two_is_gone = true,
            Event::Changed { key, revision, .. } if key == one => one_is_new = revision == last,
            other => panic!("{other:?}"),
        }
    }
    let next = put(&writer, &two, "anew");
    assert_eq!(next_news(&mut quiet).await, changed(&two, next, "anew"));
}

#[tokio::test]
async fn another_cluster_under_the_same_address_is_believed() {
    let name = "another_cluster_under_the_same_address_is_believed";
    let Some(mut etcd) = Private::start(name) else {
        return;
    };
    let key = fresh_key();
    let mut watch = watch_keys(&etcd.address(), &[&key]);
    let writer = etcd.outsider();
    for round in 0..10 {
        put(&writer, &key, &round.to_string());
    }
    until(
        &mut watch,
        |event| matches!(event, Event::Changed { text: Ok(text), .. } if text == "9"),
    )
    .await;
    etcd.kill();
    etcd.lose_everything();
    etcd.restart();
    until(&mut watch, |event| *event == Event::ClusterChanged).await;
    let told = next_news(&mut watch).await;
    assert!(matches!(told, Event::Deleted { .. }), "{told:?}");
    let revision = put(&etcd.outsider(), &key, "restored");
    assert!(revision < 9);
    assert_eq!(next_news(&mut watch).await, changed(&key, revision, "restored"));
}

#[tokio::test]
async fn a_silent_stream_is_kept_alive_and_a_read_is_repeated() {
    let name = "a_silent_stream_is_kept_alive_and_a_read_is_repeated";
    let Some(etcd) = Etcd::any(name) else {
        return;
    };
    let key = fresh_key();
    let mut options = options(&etcd.address());
    // Asked each 200 ms; would be given up after a minute without an answer.
    options.timing.ask = Duration::from_millis(200);
    options.timing.reread = Duration::from_secs(2);
    let mut watch = Watch::start(options, Selection::Keys(vec![key.clone()]));
    for _ in 0..3 {
        assert_eq!(next(&mut watch).await, Event::Synced);
    }
    let revision = put(&etcd.outsider(), &key, "1");
    assert_eq!(next_news(&mut watch).await, changed(&key, revision, "1"));
    etcd.outsider().delete(&key.path());
}

#[tokio::test]
async fn denied_access_is_told_and_given_access_is_used() {
    let name = "denied_access_is_told_and_given_access_is_used";
    let Some(etcd) = Private::start(name) else {
        return;
    };
    enable_auth(&etcd).await;
    let with = |password: &str| {
        let mut options = options(&etcd.address());
        options.credentials = Some(Credentials::new("picket", password));
        options
    };
    let own = Selection::Keys(vec![Key::Default]);
    let is_denied = |event: &Event| matches!(event, Event::Unreachable(Failure::Denied { .. }));
    let mut wrong = Watch::start(with("changed"), own.clone());
    let mut nobody = Watch::start(options(&etcd.address()), own.clone());
    let mut right = Watch::start(with("secret"), own);
    assert_eq!(next(&mut right).await, Event::Synced);
    until(&mut wrong, is_denied).await;
    until(&mut nobody, is_denied).await;

    // The password becomes the one that it came with.
    let mut root = root(&etcd).await;
    root.user_change_password("picket", "changed").await.unwrap();
    until(&mut wrong, |event| *event == Event::Back).await;
    let revision = root.put(Key::Default.path(), "{}", None).await.unwrap();
    let revision = revision.header().unwrap().revision().try_into().unwrap();
    assert_eq!(next_news(&mut wrong).await, changed(&Key::Default, revision, "{}"));
}

#[tokio::test]
async fn a_revoked_permission_is_told() {
    let Some(etcd) = Private::start("a_revoked_permission_is_told") else {
        return;
    };
    enable_auth(&etcd).await;
    let mut options = options(&etcd.address());
    options.credentials = Some(Credentials::new("picket", "secret"));
    options.timing.reread = Duration::from_secs(1);
    let mut watch = Watch::start(options, Selection::Folder);
    until(&mut watch, |event| *event == Event::Synced).await;
    let mut root = root(&etcd).await;
    root.user_revoke_role("picket", "config").await.unwrap();
    until(&mut watch, |event| matches!(event, Event::Unreachable(Failure::Denied { .. }))).await;
    root.user_grant_role("picket", "config").await.unwrap();
    until(&mut watch, |event| *event == Event::Back).await;
}
