//! Reading and writing documents.

use etcd::{Credentials, Failure, Key, Options, Store, StoreError, TEXT_BYTES_MAX, TextError};

use crate::real::{Etcd, Private};
use crate::watch::fresh_key;

fn options(addresses: &str) -> Options {
    Options::new(addresses.parse().unwrap())
}

#[tokio::test]
async fn documents_are_read_and_written_with_conditions() {
    let Some(etcd) = Etcd::any("documents_are_read_and_written_with_conditions") else {
        return;
    };
    let store = Store::new(options(&etcd.address()));
    let key = fresh_key();
    assert_eq!(store.get(&key).await.unwrap(), None);

    let first = store.put(&key, "1", Some(0)).await.unwrap();
    let second = store.put(&key, "2", Some(first)).await.unwrap();
    for expected in [0, first] {
        match store.put(&key, "3", Some(expected)).await {
            Err(StoreError::Conflict { expected: e, actual }) => {
                assert_eq!((e, actual), (expected, second));
            }
            other => panic!("{other:?}"),
        }
    }
    let held = store.get(&key).await.unwrap().unwrap();
    assert_eq!((held.revision, held.text), (second, Ok("2".into())));
    assert!(second < store.put(&key, "4", None).await.unwrap());

    let bytes = TEXT_BYTES_MAX + 1;
    let refused = store.put(&key, &"x".repeat(bytes), None).await;
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
    // Others are not held to the limit.
    etcd.outsider().put(&key.path(), "x".repeat(bytes));
    let held = store.get(&key).await.unwrap().unwrap();
    assert_eq!(held.text, Err(TextError::TooLarge { bytes }));
}

#[tokio::test]
async fn history_goes_back_to_the_compaction_or_the_deletion() {
    let name = "history_goes_back_to_the_compaction_or_the_deletion";
    let Some(etcd) = Private::start(name) else {
        return;
    };
    let store = Store::new(options(&etcd.address()));
    let (key, other) = (fresh_key(), fresh_key());
    let mut revisions = Vec::new();
    for round in 0..6 {
        revisions.push(store.put(&key, &round.to_string(), None).await.unwrap());
        store.put(&other, "other", None).await.unwrap();
    }
    let texts = |limit| {
        let (store, key) = (&store, &key);
        async move {
            let versions = store.history(key, limit).await.unwrap();
            versions.into_iter().map(|version| version.text.unwrap()).collect::<Vec<_>>()
        }
    };
    assert_eq!(texts(100).await, ["5", "4", "3", "2", "1", "0"]);
    assert_eq!(texts(2).await, ["5", "4"]);

    etcd.outsider().compact(revisions[3]);
    assert_eq!(texts(100).await, ["5", "4", "3"]);
    etcd.outsider().delete(&key.path());
    assert!(texts(100).await.is_empty());
    store.put(&key, "new", Some(0)).await.unwrap();
    assert_eq!(texts(100).await, ["new"]);
}

#[tokio::test]
async fn reads_find_the_member_that_answers() {
    let Some(mut etcd) = Private::start("reads_find_the_member_that_answers") else {
        return;
    };
    let nobody = Private::prepare("").unwrap();
    let store = Store::new(options(&format!("{},{}", nobody.address(), etcd.address())));
    let key = fresh_key();
    assert_eq!(store.get(&key).await.unwrap(), None);
    store.put(&key, "1", None).await.unwrap();

    etcd.kill();
    let failed = store.get(&key).await.unwrap_err();
    assert!(matches!(failed, StoreError::Unavailable(Failure::Unreachable { .. })), "{failed:?}");
    assert!(store.put(&key, "2", None).await.is_err());
    etcd.restart();
    assert_eq!(store.get(&key).await.unwrap().unwrap().text, Ok("1".into()));
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_right_ones_are_renewed() {
    let name = "wrong_credentials_are_denied_and_right_ones_are_renewed";
    // Tokens that are not used expire after a second.
    let Some(etcd) = Private::start_with(name, &["--auth-token-ttl=1"]) else {
        return;
    };
    enable_auth(&etcd).await;
    let store = |password: &str| {
        let mut options = options(&etcd.address());
        options.credentials = Some(Credentials::new("picket", password));
        Store::new(options)
    };
    let denied = store("wrong").get(&Key::Default).await.unwrap_err();
    assert!(matches!(denied, StoreError::Unavailable(Failure::Denied { .. })), "{denied:?}");
    let none = Store::new(options(&etcd.address())).get(&Key::Default).await.unwrap_err();
    assert!(matches!(none, StoreError::Unavailable(Failure::Denied { .. })), "{none:?}");

    let right = store("secret");
    right.put(&Key::Default, "{}", None).await.unwrap();
    // Time for the token to expire; whether it has makes no difference to what must hold.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    right.put(&Key::Default, "{ }", None).await.unwrap();
    assert_eq!(right.get(&Key::Default).await.unwrap().unwrap().text, Ok("{ }".into()));
}

/// Turns authentication on, with a user `picket`, password `secret`, who may use the folder.
pub(crate) async fn enable_auth(etcd: &Private) {
    use etcd_client::{Client, Permission, PermissionType};

    let mut client = Client::connect([etcd.address()], None).await.unwrap();
    client.user_add("root", "root", None).await.unwrap();
    client.role_add("root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("config").await.unwrap();
    let folder = Permission::new(PermissionType::Readwrite, "/monitor/config/").with_prefix();
    client.role_grant_permission("config", folder).await.unwrap();
    client.user_add("picket", "secret", None).await.unwrap();
    client.user_grant_role("picket", "config").await.unwrap();
    client.auth_enable().await.unwrap();
}
