//! Commands about the object tree, the types of objects, and objects of the operator.

use base::memory::backend::{self, Backend};
use base::options::check_id;
use base::props::{PropSpec, Props};
use machine::config::{ObjectConfig, PropList};
use machine::credentials::{self, SECRET, TLS_X509};
use machine::io_threads::IoThreadProps;
use machine::objects::{IO_THREAD, UserObjectError, is_type};
use machine::throttle_groups::{self, THROTTLE_GROUP};
use net::filter::{self, FilterKind};
use serde_json::{Map, Value};

use crate::qapi::{ErrorClass, Member, Members, Qapi, QmpError, Type};
use crate::qapi_struct;
use crate::qmp::Call;
use crate::qom::types::{self, TypeProperty};

qapi_struct! {
    /// An object.
    pub(in crate::qmp) struct Path { "path" path: String }
}

qapi_struct! {
    /// A property, or a child.
    pub(in crate::qmp) struct PropertyInfo {
        "name" name: String,
        "type" type_name: String,
        "description" description: Option<String>,
        "default-value" default: Option<Value>,
    }
}

impl From<TypeProperty> for PropertyInfo {
    fn from(property: TypeProperty) -> Self {
        PropertyInfo {
            name: property.name,
            type_name: property.type_name,
            description: property.description,
            default: property.default,
        }
    }
}

pub(in crate::qmp) fn qom_list(
    call: &Call<'_>,
    Path { path }: Path,
) -> Result<Vec<PropertyInfo>, QmpError> {
    let (_, object) = call.target.object(&path)?;
    let info = |listed: base::object::Listed| PropertyInfo {
        name: listed.name,
        type_name: listed.type_name,
        description: None,
        default: None,
    };
    Ok(object.list().into_iter().map(info).collect())
}

qapi_struct! {
    /// A property of an object.
    pub(in crate::qmp) struct GetProperty { "path" path: String, "property" property: String }
}

pub(in crate::qmp) fn qom_get(call: &Call<'_>, wanted: GetProperty) -> Result<Value, QmpError> {
    let (path, object) = call.target.object(&wanted.path)?;
    Ok(object.get(&path, &wanted.property)?)
}

qapi_struct! {
    /// A property of an object, and what it is to be.
    pub(in crate::qmp) struct SetProperty {
        "path" path: String,
        "property" property: String,
        "value" value: Value,
    }
}

pub(in crate::qmp) fn qom_set(call: &Call<'_>, change: SetProperty) -> Result<(), QmpError> {
    let (_, object) = call.target.object(&change.path)?;
    Ok(object.set(&change.property, &change.value)?)
}

qapi_struct! {
    /// Which types.
    pub(in crate::qmp) struct WhichTypes {
        "implements" implements: Option<String>,
        "abstract" is_abstract: Option<bool>,
    }
}

qapi_struct! {
    /// A type.
    pub(in crate::qmp) struct TypeSummary {
        "name" name: String,
        "abstract" is_abstract: Option<bool>,
        "parent" parent: Option<String>,
    }
}

pub(in crate::qmp) fn qom_list_types(
    _: &Call<'_>,
    which: WhichTypes,
) -> Result<Vec<TypeSummary>, QmpError> {
    let wanted = |info: &types::TypeInfo| {
        (which.is_abstract == Some(true) || !info.is_abstract)
            && which.implements.as_ref().is_none_or(|ancestor| info.is_a(ancestor))
    };
    let summary = |info: types::TypeInfo| TypeSummary {
        name: info.name,
        is_abstract: info.is_abstract.then_some(true),
        parent: Some(info.parent).filter(|parent| !parent.is_empty()).map(Into::into),
    };
    Ok(types::all().into_iter().filter(wanted).map(summary).collect())
}

qapi_struct! {
    /// A type.
    pub(in crate::qmp) struct TypeName { "typename" name: String }
}

pub(in crate::qmp) fn device_list_properties(
    _: &Call<'_>,
    TypeName { name }: TypeName,
) -> Result<Vec<PropertyInfo>, QmpError> {
    let found = types::find(&name).ok_or_else(|| {
        QmpError::of(ErrorClass::DeviceNotFound, format!("Device '{name}' not found"))
    })?;
    if found.is_abstract || !found.is_a("device") {
        let message = "Parameter 'typename' expects a non-abstract device type";
        return Err(QmpError::new(message));
    }
    Ok(found.own_properties().into_iter().map(Into::into).collect())
}

pub(in crate::qmp) fn qom_list_properties(
    _: &Call<'_>,
    TypeName { name }: TypeName,
) -> Result<Vec<PropertyInfo>, QmpError> {
    let found = types::find(&name).ok_or_else(|| {
        QmpError::of(ErrorClass::DeviceNotFound, format!("Class '{name}' not found"))
    })?;
    Ok(found.properties().into_iter().map(Into::into).collect())
}

impl From<UserObjectError> for QmpError {
    fn from(error: UserObjectError) -> Self {
        QmpError::new(error.to_string())
    }
}

/// An object to be made: its type, its id, and the properties of the type.
pub(in crate::qmp) struct ObjectOptions {
    type_name: String,
    id: String,
    props: Map<String, Value>,
}

fn limits() -> Type {
    let names = throttle_groups::SPECS.iter().filter_map(|spec| spec.name.strip_prefix("x-"));
    let member = |name| Member { name, ty: i64::ty(), optional: true };
    Type::Object { name: "ThrottleLimits", members: names.map(member).collect() }
}

/// A property of an object, as the schema has it.
fn member(spec: &PropSpec) -> Member {
    let words = |name, values: &[&'static str]| Type::Enum { name, values: values.into() };
    let ty = match spec.type_name {
        "bool" => bool::ty(),
        "size" | "uint32" | "int64" => i64::ty(),
        "HostMemPolicy" => words("HostMemPolicy", &["default", "preferred", "bind", "interleave"]),
        "OnOffAuto" => words("OnOffAuto", &["auto", "on", "off"]),
        "int" if spec.name.starts_with("x-") => i64::ty(),
        "int" => Vec::<i64>::ty(),
        "ThrottleLimits" => limits(),
        "QCryptoSecretFormat" => words("QCryptoSecretFormat", &["raw", "base64"]),
        "NetFilterDirection" => words("NetFilterDirection", &["all", "rx", "tx"]),
        "string" if spec.name == "insert" => words("NetfilterInsert", &["before", "behind"]),
        "QCryptoTLSCredsEndpoint" => words("QCryptoTLSCredsEndpoint", &["client", "server"]),
        _ => String::ty(),
    };
    let optional = !matches!(spec.name, "size" | "mem-path");
    Member { name: spec.name, ty, optional }
}

fn filter_variant(kind: FilterKind) -> (&'static str, Type) {
    let member = |spec: &PropSpec| Member {
        optional: !kind.required().contains(&spec.name),
        ..member(spec)
    };
    let name = kind.type_name();
    (name, Type::Object { name, members: kind.specs().iter().map(member).collect() })
}

impl Qapi for ObjectOptions {
    fn ty() -> Type {
        let variant = |name: &'static str, specs: &[PropSpec]| {
            (name, Type::Object { name, members: specs.iter().map(member).collect() })
        };
        let backends = backend::TYPES
            .iter()
            .filter_map(|name| Some(variant(name, Backend::new(name)?.specs())));
        let threads = variant(IO_THREAD, IoThreadProps::specs());
        let limits = variant(THROTTLE_GROUP, throttle_groups::SPECS);
        let others = [SECRET, TLS_X509]
            .into_iter()
            .filter_map(|name| Some(variant(name, credentials::specs(name)?)));
        let filters =
            filter::TYPES.iter().filter_map(|name| Some(filter_variant(FilterKind::new(name)?)));
        let variants = backends.chain([threads, limits]).chain(others).chain(filters);
        let mut names = backend::TYPES.to_vec();
        names.extend([IO_THREAD, THROTTLE_GROUP, SECRET, TLS_X509]);
        names.extend(filter::TYPES);
        let kinds = Type::Enum { name: "ObjectType", values: names };
        Type::Union {
            name: "ObjectOptions",
            members: vec![
                Member { name: "qom-type", ty: kinds, optional: false },
                Member { name: "id", ty: String::ty(), optional: false },
            ],
            tag: "qom-type",
            variants: variants.collect(),
        }
    }

    fn read(value: Value, name: &str) -> Result<Self, QmpError> {
        let mut members = Members::of(value, name)?;
        let type_name: String = members.take("qom-type")?;
        if !is_type(&type_name) {
            return Err(QmpError::not_accepted("qom-type", &type_name));
        }
        let id: String = members.take("id")?;
        Ok(ObjectOptions { type_name, id, props: members.rest() })
    }

    fn write(self) -> Option<Value> {
        let mut map = self.props;
        map.insert("qom-type".into(), self.type_name.into());
        map.insert("id".into(), self.id.into());
        Some(map.into())
    }
}

pub(in crate::qmp) fn object_add(call: &Call<'_>, options: ObjectOptions) -> Result<(), QmpError> {
    let ObjectOptions { type_name, id, props } = options;
    if check_id(&id).is_err() {
        return Err(QmpError::new("Parameter 'id' expects an identifier"));
    }
    let config = ObjectConfig { type_name, id, props: PropList::Json(props) };
    Ok(call.target.vm.user_objects().add(&config)?)
}

qapi_struct! {
    /// An object of the operator.
    pub(in crate::qmp) struct ObjectId { "id" id: String }
}

pub(in crate::qmp) fn object_del(
    call: &Call<'_>,
    ObjectId { id }: ObjectId,
) -> Result<(), QmpError> {
    Ok(call.target.vm.user_objects().remove(&id)?)
}
