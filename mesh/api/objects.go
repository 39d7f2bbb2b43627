package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/skerry-metal/skerry/mesh/intent"
)

// maxBatch bounds one apply, which is one transaction: some 4,000 objects of usual size.
const maxBatch = 2 << 20

// Document is the shape of one kind in the OpenAPI text; the wire form is intent.Object.
type Document[S any] struct {
	APIVersion string          `json:"apiVersion" enum:"skerry/v1"`
	Kind       string          `json:"kind"`
	Metadata   intent.Metadata `json:"metadata"`
	Spec       S               `json:"spec"`
	Status     any             `json:"status,omitempty" readOnly:"true"`
}

// documents gives the type behind each kind's schema.
func documents() map[intent.Kind]reflect.Type {
	return map[intent.Kind]reflect.Type{
		intent.KindSite:           reflect.TypeFor[Document[intent.SiteSpec]](),
		intent.KindAgent:          reflect.TypeFor[Document[intent.AgentSpec]](),
		intent.KindMachine:        reflect.TypeFor[Document[intent.MachineSpec]](),
		intent.KindMachineType:    reflect.TypeFor[Document[intent.MachineTypeSpec]](),
		intent.KindSwitch:         reflect.TypeFor[Document[intent.SwitchSpec]](),
		intent.KindSubnetPool:     reflect.TypeFor[Document[intent.SubnetPoolSpec]](),
		intent.KindNetwork:        reflect.TypeFor[Document[intent.NetworkSpec]](),
		intent.KindAsset:          reflect.TypeFor[Document[intent.AssetSpec]](),
		intent.KindImage:          reflect.TypeFor[Document[intent.ImageSpec]](),
		intent.KindSecret:         reflect.TypeFor[Document[intent.SecretSpec]](),
		intent.KindProject:        reflect.TypeFor[Document[intent.ProjectSpec]](),
		intent.KindUser:           reflect.TypeFor[Document[intent.UserSpec]](),
		intent.KindGroup:          reflect.TypeFor[Document[intent.GroupSpec]](),
		intent.KindRole:           reflect.TypeFor[Document[intent.RoleSpec]](),
		intent.KindQuota:          reflect.TypeFor[Document[intent.QuotaSpec]](),
		intent.KindInfrastructure: reflect.TypeFor[Document[intent.InfrastructureSpec]](),
		intent.KindInstanceArray:  reflect.TypeFor[Document[intent.InstanceArraySpec]](),
		intent.KindSSHKey:         reflect.TypeFor[Document[intent.SSHKeySpec]](),
	}
}

// CollectionPath returns where the objects of a kind live: "/v1/machines", "/v1/sites/{site}/machines", ... scope is
// ignored for global kinds.
func CollectionPath(info intent.KindInfo, scope string) string {
	switch info.Scope {
	case intent.ScopeSite:
		return "/v1/sites/" + scope + "/" + info.Plural
	case intent.ScopeProject:
		return "/v1/projects/" + scope + "/" + info.Plural
	default:
		return "/v1/" + info.Plural
	}
}

// ETag returns the entity tag of a stored object.
func ETag(o *intent.Object) string {
	return fmt.Sprintf("%q", fmt.Sprintf("%s.%d", o.Metadata.UID, o.Metadata.Rev))
}

type itemInput struct {
	Scope string `path:"scope"`
	Name  string `path:"name" maxLength:"63"`
}

type listInput struct {
	Site    string `query:"site" doc:"only objects of this site; kinds that belong to none are not narrowed" maxLength:"63"`
	Project string `query:"project" doc:"only objects of this project; kinds that belong to none are not narrowed" maxLength:"63"`
}

type writeInput struct {
	Name    string `path:"name" maxLength:"63"`
	Scope   string `path:"scope" maxLength:"63"`
	IfMatch string `header:"If-Match" doc:"change only this version"`
	IfNone  string `header:"If-None-Match" doc:"* = create only"`
	DryRun  bool   `query:"dryRun" doc:"check and answer, change nothing"`
	Reason  string `query:"reason" maxLength:"256" doc:"kept in the audit log"`
	RawBody []byte `contentType:"application/json"`
}

type deleteInput struct {
	Name    string `path:"name" maxLength:"63"`
	Scope   string `path:"scope" maxLength:"63"`
	IfMatch string `header:"If-Match" doc:"delete only this version"`
	DryRun  bool   `query:"dryRun" doc:"check and answer, change nothing"`
	Reason  string `query:"reason" maxLength:"256" doc:"kept in the audit log"`
}

type objectOutput struct {
	ETag string `header:"ETag"`
	Body *intent.Object
}

type resultsOutput struct {
	Body struct {
		Results []Result `json:"results"`
	}
}

type listOutput struct {
	Body struct {
		Revision uint64           `json:"revision"`
		Items    []*intent.Object `json:"items"`
	}
}

// objects registers list, get, put and delete for every kind.
func (a *API) objects() {
	docs := documents()
	for _, info := range intent.Kinds() {
		schema := a.huma.OpenAPI().Components.Schemas.Schema(docs[info.Kind], true, string(info.Kind))
		a.kind(info, schema)
	}
}

func (a *API) op(method, path, id, summary, tag string) huma.Operation {
	return huma.Operation{
		Method: method, Path: path, OperationID: id, Summary: summary, Tags: []string{tag},
		Security: credentials(), Middlewares: huma.Middlewares{a.authenticate},
	}
}

// credentials says that either is enough.
func credentials() []map[string][]string {
	return []map[string][]string{{"bearer": {}}, {"certificate": {}}}
}

func jsonContent(s *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{"application/json": {Schema: s}}
}

func (a *API) kind(info intent.KindInfo, schema *huma.Schema) {
	name, tag := string(info.Kind), string(info.Kind)
	list := a.op(http.MethodGet, "/v1/"+info.Plural, "list-"+info.Plural, "List "+info.Plural+" that you may see", tag)
	list.Responses = map[string]*huma.Response{"200": {Content: jsonContent(&huma.Schema{Type: "object", Properties: map[string]*huma.Schema{
		"revision": {Type: "integer"}, "items": {Type: "array", Items: schema},
	}})}}
	huma.Register(a.huma, list, func(ctx context.Context, in *listInput) (*listOutput, error) { return a.list(ctx, info, in) })

	item := CollectionPath(info, "{scope}") + "/{name}"
	get := a.op(http.MethodGet, item, "get-"+strings.ToLower(name), "Get one "+name, tag)
	get.Responses = map[string]*huma.Response{"200": {Content: jsonContent(schema)}}
	put := a.op(http.MethodPut, item, "put-"+strings.ToLower(name), "Create or change one "+name, tag)
	put.RequestBody = &huma.RequestBody{Required: true, Content: jsonContent(schema)}
	put.SkipValidateBody, put.MaxBodyBytes = true, intent.MaxObjectSize
	del := a.op(http.MethodDelete, item, "delete-"+strings.ToLower(name), "Delete one "+name, tag)
	if info.Scope == intent.ScopeGlobal {
		huma.Register(a.huma, get, func(ctx context.Context, in *struct {
			Name string `path:"name" maxLength:"63"`
		},
		) (*objectOutput, error) {
			return a.get(ctx, info, "", in.Name)
		})
		huma.Register(a.huma, put, func(ctx context.Context, in *globalWrite) (*resultsOutput, error) {
			return a.put(ctx, info, &writeInput{Name: in.Name, IfMatch: in.IfMatch, IfNone: in.IfNone, DryRun: in.DryRun, Reason: in.Reason, RawBody: in.RawBody})
		})
		huma.Register(a.huma, del, func(ctx context.Context, in *globalDelete) (*resultsOutput, error) {
			return a.remove(ctx, info, &deleteInput{Name: in.Name, IfMatch: in.IfMatch, DryRun: in.DryRun, Reason: in.Reason})
		})
		return
	}
	huma.Register(a.huma, get, func(ctx context.Context, in *itemInput) (*objectOutput, error) {
		return a.get(ctx, info, in.Scope, in.Name)
	})
	huma.Register(a.huma, put, func(ctx context.Context, in *writeInput) (*resultsOutput, error) { return a.put(ctx, info, in) })
	huma.Register(a.huma, del, func(ctx context.Context, in *deleteInput) (*resultsOutput, error) { return a.remove(ctx, info, in) })
}

type globalWrite struct {
	Name    string `path:"name" maxLength:"63"`
	IfMatch string `header:"If-Match" doc:"change only this version"`
	IfNone  string `header:"If-None-Match" doc:"* = create only"`
	DryRun  bool   `query:"dryRun" doc:"check and answer, change nothing"`
	Reason  string `query:"reason" maxLength:"256" doc:"kept in the audit log"`
	RawBody []byte `contentType:"application/json"`
}

type globalDelete struct {
	Name    string `path:"name" maxLength:"63"`
	IfMatch string `header:"If-Match" doc:"delete only this version"`
	DryRun  bool   `query:"dryRun" doc:"check and answer, change nothing"`
	Reason  string `query:"reason" maxLength:"256" doc:"kept in the audit log"`
}

// redact drops what is never returned.
func redact(o *intent.Object) *intent.Object {
	s, ok := o.Spec.(*intent.SecretSpec)
	if !ok || len(s.Data) == 0 {
		return o
	}
	c := *o
	c.Spec = &intent.SecretSpec{Type: s.Type, Ver: s.Ver}
	return &c
}

func (a *API) list(ctx context.Context, info intent.KindInfo, in *listInput) (*listOutput, error) {
	c, rev, err := a.b.Snapshot(ctx)
	if err != nil {
		return nil, problem(err)
	}
	by := callerFrom(ctx)
	out := &listOutput{}
	out.Body.Revision, out.Body.Items = rev, []*intent.Object{}
	for _, o := range c.List(info.Kind) {
		if info.Selects(o, in.Site, in.Project) && may(c, by, requestFor(intent.VerbRead, o)) {
			out.Body.Items = append(out.Body.Items, redact(o))
		}
	}
	return out, nil
}

func (a *API) get(ctx context.Context, info intent.KindInfo, scope, name string) (*objectOutput, error) {
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return nil, problem(err)
	}
	key := intent.Key{Kind: info.Kind, Scope: scope, Name: name}
	o := c.Get(key)
	if o == nil {
		by, stub := pathCaller(info, key, callerFrom(ctx))
		if !may(c, by, requestFor(intent.VerbRead, stub)) {
			return nil, problem(deny(ctx, ErrNotFound))
		}
		return nil, problem(ErrNotFound)
	}
	if !may(c, callerFrom(ctx), requestFor(intent.VerbRead, o)) {
		return nil, problem(deny(ctx, ErrNotFound))
	}
	return &objectOutput{ETag: ETag(o), Body: redact(o)}, nil
}

func (a *API) put(ctx context.Context, info intent.KindInfo, in *writeInput) (*resultsOutput, error) {
	key := intent.Key{Kind: info.Kind, Scope: in.Scope, Name: in.Name}
	if err := a.authorisePath(ctx, info, key); err != nil {
		return nil, problem(err)
	}
	o, err := intent.DecodeObject(in.RawBody)
	if err != nil {
		return nil, problem(err)
	}
	if o.Key() != key {
		return nil, problem(&Error{Status: http.StatusUnprocessableEntity, Type: "invalid", Detail: fmt.Sprintf("the document is %s, the path is %s; make them agree", o.Key(), key)})
	}
	b := Batch{Put: []*intent.Object{o}, DryRun: in.DryRun, Reason: in.Reason}
	if in.IfMatch != "" {
		b.IfMatch = map[intent.Key]string{key: in.IfMatch}
	}
	if in.IfNone == "*" {
		b.IfNone = map[intent.Key]bool{key: true}
	}
	return a.apply(ctx, b)
}

func (a *API) remove(ctx context.Context, info intent.KindInfo, in *deleteInput) (*resultsOutput, error) {
	key := intent.Key{Kind: info.Kind, Scope: in.Scope, Name: in.Name}
	if err := a.authorisePath(ctx, info, key); err != nil {
		return nil, problem(err)
	}
	b := Batch{Delete: []intent.Key{key}, DryRun: in.DryRun, Reason: in.Reason}
	if in.IfMatch != "" {
		b.IfMatch = map[intent.Key]string{key: in.IfMatch}
	}
	return a.apply(ctx, b)
}

// apply authorises every object of the batch, then hands it to the backend.
func (a *API) apply(ctx context.Context, b Batch) (*resultsOutput, error) {
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return nil, problem(err)
	}
	by := callerFrom(ctx)
	for _, o := range b.Put {
		if err := deny(ctx, authoriseWrite(c, by, o, c.Get(o.Key()))); err != nil {
			return nil, problem(err)
		}
	}
	for _, k := range b.Delete {
		old := c.Get(k)
		if old == nil {
			return nil, problem(ErrNotFound)
		}
		if err := deny(ctx, authoriseWrite(c, by, old, old)); err != nil {
			return nil, problem(err)
		}
	}
	res, err := a.b.Apply(ctx, by, b)
	if err != nil {
		return nil, problem(err)
	}
	out := &resultsOutput{}
	out.Body.Results = res
	return out, nil
}

// authorisePath refuses whom the path alone shuts out, so that only who may write there learns what is wrong with a document. The
// site of a project's object stands in the document: it is checked with it.
func (a *API) authorisePath(ctx context.Context, info intent.KindInfo, key intent.Key) error {
	c, _, err := a.b.Snapshot(ctx)
	if err != nil {
		return err
	}
	by, stub := pathCaller(info, key, callerFrom(ctx))
	return deny(ctx, authoriseWrite(c, by, stub, nil))
}

// pathCaller returns what a path alone says of an object, and the caller as far as it can be judged by that: a binding to a site may
// or may not reach a project's object.
func pathCaller(info intent.KindInfo, key intent.Key, by Caller) (Caller, *intent.Object) {
	o := &intent.Object{Kind: key.Kind, Metadata: intent.Metadata{Name: key.Name}}
	switch info.Scope {
	case intent.ScopeSite:
		o.Metadata.Site = key.Scope
	case intent.ScopeProject:
		o.Metadata.Project = key.Scope
		by.Bindings = slices.Clone(by.Bindings)
		for i := range by.Bindings {
			by.Bindings[i].Site = ""
		}
	}
	return by, o
}

// authoriseWrite checks the new and, when it exists, the stored object: nobody moves a thing out of somebody else's site.
// What the caller may not even read is answered as if it were not there.
func authoriseWrite(c *intent.Catalog, by Caller, o, old *intent.Object) error {
	for _, x := range []*intent.Object{o, old} {
		if x == nil || may(c, by, requestFor(intent.VerbWrite, x)) {
			continue
		}
		if may(c, by, requestFor(intent.VerbRead, x)) {
			return ErrForbidden
		}
		return ErrNotFound
	}
	return nil
}

// decodeBatch reads {"objects": [...]} strictly.
func decodeBatch(raw []byte) ([]*intent.Object, error) {
	var in struct {
		Objects []json.RawMessage `json:"objects"`
	}
	if err := intent.DecodeStrict(raw, &in); err != nil {
		return nil, err
	}
	var objects []*intent.Object
	var ps []intent.ObjectProblem
	for i, b := range in.Objects {
		o, err := intent.DecodeObject(b)
		if err != nil {
			ps = append(ps, locate(i, b, err)...)
			continue
		}
		objects = append(objects, o)
	}
	if len(ps) > 0 {
		return nil, Invalid(ps)
	}
	return objects, nil
}

// locate names the object of a problem as well as it can be read.
func locate(i int, raw []byte, err error) []intent.ObjectProblem {
	var head struct {
		Kind     intent.Kind `json:"kind"`
		Metadata struct {
			Name    string `json:"name"`
			Site    string `json:"site"`
			Project string `json:"project"`
		} `json:"metadata"`
	}
	key := intent.Key{Kind: "object", Name: fmt.Sprint(i)}
	if json.Unmarshal(raw, &head) == nil && head.Metadata.Name != "" {
		o := intent.Object{Kind: head.Kind, Metadata: intent.Metadata{Name: head.Metadata.Name, Site: head.Metadata.Site, Project: head.Metadata.Project}}
		key = o.Key()
	}
	ps, ok := err.(intent.Problems)
	if !ok {
		ps = intent.Problems{{What: err.Error()}}
	}
	out := make([]intent.ObjectProblem, len(ps))
	for j, p := range ps {
		out[j] = intent.ObjectProblem{Key: key, Problem: p}
	}
	return out
}
