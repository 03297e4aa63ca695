//! Takes away what cannot be equal on two servers, and nothing else.
//!
//! Texts: ids, folders, addresses and random names become words, since each server makes its own. Numbers that are times
//! or process ids become `set`. Lists whose order means nothing become maps or are sorted; at each stands why.

use serde_json::{Map, Value, json};

use crate::case::Outcome;
use crate::endpoint::Endpoint;
use crate::ensure;

/// Keys whose values are times or process ids: all that can be compared is whether they are set.
const MOMENTS: [&str; 11] = [
    "created_at",
    "started_at",
    "finished_at",
    "timestamp",
    "pid",
    "CreatedAt",
    "StartedAt",
    "FinishedAt",
    "createdAt",
    "startedAt",
    "finishedAt",
];

/// What one server's texts are rewritten with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    replacements: Vec<(String, String)>,
}

impl Words {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        let home = endpoint.home.display();
        // The longer come first.
        let pairs = [
            (format!("{home}/podwright"), "<root>"),
            (
                format!("{home}/containerd/io.containerd.grpc.v1.cri"),
                "<root>",
            ),
            (format!("{home}"), "<home>"),
            (endpoint.cgroup_parent.clone(), "<cgroup>"),
            (String::from("/run/podwright"), "<state>"),
            (
                String::from("/run/peer/io.containerd.grpc.v1.cri"),
                "<state>",
            ),
            (String::from("/var/run/netns"), "/run/netns"),
            (String::from("/etc/cni/net.d"), "<networks>"),
            (String::from("/etc/cni/peer.d"), "<networks>"),
            (String::from("ours0"), "<bridge>"),
            (String::from("peer0"), "<bridge>"),
        ];
        Self {
            replacements: pairs.map(|(from, to)| (from, to.to_owned())).to_vec(),
        }
    }

    /// From now on `id` reads as `word`.
    pub(crate) fn call(&mut self, id: &str, word: &str) {
        self.replacements.push((id.to_owned(), format!("<{word}>")));
    }

    fn text(&self, text: &str) -> String {
        let known = self
            .replacements
            .iter()
            .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
        words(&known)
    }

    /// `tree` with every text and key rewritten, and specs put in a shape without meaningless order.
    pub(crate) fn apply(&self, tree: &Value) -> Value {
        match tree {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.iter().map(|item| self.apply(item)).collect(),
            Value::Object(fields) => {
                let entry = |(key, value): (&String, &Value)| {
                    let is_moment = MOMENTS.contains(&key.as_str()) && value.is_number();
                    let value = if is_moment && value.as_i64() != Some(0) {
                        json!("set")
                    } else {
                        self.apply(value)
                    };
                    (self.text(key), value)
                };
                let fields: Map<String, Value> = fields.iter().map(entry).collect();
                if fields.contains_key("ociVersion") {
                    spec(fields)
                } else {
                    Value::Object(fields)
                }
            }
            other => other.clone(),
        }
    }
}

/// Replaces the names that a server draws at random, word by word.
fn words(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == ':';
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        out.push_str(&rename(word, &out));
        let next = after.find(is_word).unwrap_or(after.len());
        let (between, after) = after.split_at(next);
        out.push_str(between);
        rest = after;
    }
    out
}

fn rename(word: &str, before: &str) -> String {
    let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_hexdigit());
    let is_address = |prefix: &str| {
        let rest = word.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.split('.').all(|part| part.parse::<u8>().is_ok()))
    };
    if word.len() == 64 && is_hex(word) {
        // A container, a folder or a layer: what it is of, the text around it says.
        String::from("<hex>")
    } else if word.starts_with("cni-") && word.len() == 40 {
        String::from("<netns>")
    } else if word.starts_with("veth") && word.len() == 12 {
        String::from("<veth>")
    } else if is_address("10.77.") || is_address("10.78.") {
        String::from("<address>")
    } else if word.len() == 17 && word.split(':').count() == 6 && is_hex(&word.replace(':', "")) {
        String::from("<mac>")
    } else if before.ends_with("/proc/") && word.parse::<u32>().is_ok() {
        String::from("<pid>")
    } else {
        word.to_owned()
    }
}

/// A runtime spec in a shape in which equal specs are equal trees.
fn spec(mut spec: Map<String, Value>) -> Value {
    if let Some(mounts) = spec.remove("mounts") {
        // Only a mount below another one depends on it; all others may come in any order.
        spec.insert(String::from("nested_mounts"), nested(&mounts));
        spec.insert(String::from("mounts"), keyed(mounts, "destination"));
    }
    if let Some(process) = spec.get_mut("process").and_then(Value::as_object_mut) {
        if let Some(env) = process.remove("env") {
            // The kernel hands over a list, but a program looks a variable up by its name.
            process.insert(String::from("env"), variables(env));
        }
        let sets = process
            .get_mut("capabilities")
            .and_then(Value::as_object_mut);
        for set in sets.into_iter().flat_map(Map::values_mut) {
            sort(set); // A set of bits.
        }
        if let Some(groups) = process
            .get_mut("user")
            .and_then(|user| user.get_mut("additionalGids"))
        {
            sort(groups); // The kernel sorts them itself.
        }
    }
    if let Some(linux) = spec.get_mut("linux").and_then(Value::as_object_mut) {
        // One namespace a type, one node a path: the OCI runtime makes them in an order of its own.
        for (list, key) in [("namespaces", "type"), ("devices", "path")] {
            if let Some(items) = linux.remove(list) {
                linux.insert(list.to_owned(), keyed(items, key));
            }
        }
        if let Some(seccomp) = linux.get_mut("seccomp").and_then(Value::as_object_mut) {
            if let Some(rules) = seccomp.remove("syscalls") {
                // The filter is built from the rules by system call, whatever their order.
                seccomp.insert(String::from("syscalls"), by_system_call(&rules));
            }
            if let Some(architectures) = seccomp.get_mut("architectures") {
                sort(architectures);
            }
        }
    }
    Value::Object(spec)
}

/// A list of objects as a map; a second one of the same key stays apart.
fn keyed(list: Value, key: &str) -> Value {
    let Value::Array(items) = list else {
        return list;
    };
    let mut map = Map::new();
    for mut item in items {
        let name = item.as_object_mut().and_then(|fields| fields.remove(key));
        let mut name = name
            .and_then(|n| n.as_str().map(String::from))
            .unwrap_or_default();
        while map.contains_key(&name) {
            name.push_str(" again");
        }
        map.insert(name, item);
    }
    Value::Object(map)
}

/// The pairs of destinations of which the second lies at or below the first, in their order.
fn nested(mounts: &Value) -> Value {
    let paths: Vec<&str> = mounts
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| mount.get("destination")?.as_str())
        .collect();
    let mut pairs = Vec::new();
    for (number, first) in paths.iter().enumerate() {
        for second in paths.iter().skip(number + 1) {
            let is_within = |inner: &str, outer: &str| {
                let rest = inner.strip_prefix(outer);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if is_within(first, second) || is_within(second, first) {
                pairs.push(format!("{first} before {second}"));
            }
        }
    }
    pairs.sort();
    json!(pairs)
}

fn variables(list: Value) -> Value {
    let Value::Array(items) = list else {
        return list;
    };
    let mut map = Map::new();
    for item in items {
        let text = item.as_str().unwrap_or_default();
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        let mut key = key.to_owned();
        while map.contains_key(&key) {
            key.push_str(" again");
        }
        map.insert(key, json!(value));
    }
    Value::Object(map)
}

fn by_system_call(rules: &Value) -> Value {
    let mut map: Map<String, Value> = Map::new();
    for rule in rules.as_array().into_iter().flatten() {
        let mut rest = rule.clone();
        let names = rest
            .as_object_mut()
            .and_then(|fields| fields.remove("names"));
        for name in names.iter().filter_map(Value::as_array).flatten() {
            let name = name.as_str().unwrap_or_default().to_owned();
            let actions = map.entry(name).or_insert_with(|| json!([]));
            if let Some(actions) = actions.as_array_mut() {
                actions.push(rest.clone());
            }
            sort(actions);
        }
    }
    Value::Object(map)
}

fn sort(list: &mut Value) {
    if let Some(items) = list.as_array_mut() {
        items.sort_by_cached_key(ToString::to_string);
    }
}

/// Order without meaning goes, order with meaning stays; random names go, chosen ones stay.
pub(crate) fn proof() -> Outcome {
    let mut plain = Words::default();
    plain.call("abc", "pod");
    let apply = |tree: Value| plain.apply(&tree);
    let spec = |mounts: Value, env: Value| json!({"ociVersion": "1", "mounts": mounts, "process": {"env": env}});
    let mount = |path: &str| json!({"destination": path, "source": "x"});
    let one = spec(json!([mount("/a"), mount("/b")]), json!(["A=1", "B=2"]));
    let other = spec(json!([mount("/b"), mount("/a")]), json!(["B=2", "A=1"]));
    ensure(apply(one.clone()) == apply(other), || {
        String::from("order was kept")
    })?;
    let outer = spec(json!([mount("/a"), mount("/a/b")]), json!([]));
    let inner = spec(json!([mount("/a/b"), mount("/a")]), json!([]));
    ensure(apply(outer) != apply(inner), || {
        String::from("nesting was lost")
    })?;
    for (text, expected) in [
        ("/x/abc/y", "/x/<pod>/y"),
        ("ip=10.77.0.3/16", "ip=<address>/16"),
        ("10.79.0.3", "10.79.0.3"),
        ("/proc/4711/ns/net", "/proc/<pid>/ns/net"),
        (
            "/run/netns/cni-01234567-0123-0123-0123-0123456789ab",
            "/run/netns/<netns>",
        ),
    ] {
        let found = apply(json!(text));
        ensure(found == json!(expected), || format!("{text}: {found}"))?;
    }
    ensure(apply(json!({"pid": 4})) == apply(json!({"pid": 5})), || {
        String::from("pids differ")
    })?;
    ensure(apply(json!({"pid": 4})) != apply(json!({"pid": 0})), || {
        String::from("no pid is a pid")
    })
}
